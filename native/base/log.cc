#include "base/log.h"

namespace jitflux {

namespace {

thread_local LogSink* current_sink = nullptr;

void* keep() { return nullptr; }
void ignore(void*) {}
WarningRedirect warnings{keep, ignore};

}  // namespace

void install_warning_redirect(const WarningRedirect& redirect) { warnings = redirect; }

LogScope::LogScope(LogSink& sink) : outer_(current_sink), outer_warnings_(warnings.begin()) {
  current_sink = &sink;
}

LogScope::~LogScope() {
  current_sink = outer_;
  warnings.end(outer_warnings_);
}

void log(LogLevel level, std::string_view message) noexcept {
  if (current_sink != nullptr) current_sink->write(level, message);
}

}  // namespace jitflux
