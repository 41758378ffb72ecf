#include "base/log.h"

namespace jitflux {

namespace {

thread_local LogSink* current_sink = nullptr;

class Warnings final : public c10::WarningHandler {
 public:
  void process(const c10::Warning& warning) override { log(LogLevel::kWarn, warning.msg()); }
};
Warnings warnings;

}  // namespace

LogScope::LogScope(LogSink& sink) : outer_(current_sink), warnings_(&warnings) {
  current_sink = &sink;
}

LogScope::~LogScope() { current_sink = outer_; }

void log(LogLevel level, const std::string& message) noexcept {
  if (current_sink != nullptr) current_sink->write(level, message);
}

}  // namespace jitflux
