#include "runtime/torch_log.h"

#include <c10/util/Exception.h>

#include <mutex>

#include "base/log.h"

namespace jitflux {

namespace {

class Warnings final : public c10::WarningHandler {
 public:
  void process(const c10::Warning& warning) override { log(LogLevel::kWarn, warning.msg()); }
};
Warnings warnings;

// LibTorch keeps one handler per thread.
void* begin() {
  c10::WarningHandler* previous = c10::WarningUtils::get_warning_handler();
  c10::WarningUtils::set_warning_handler(&warnings);
  return previous;
}

void end(void* previous) {
  c10::WarningUtils::set_warning_handler(static_cast<c10::WarningHandler*>(previous));
}

}  // namespace

void redirect_torch_warnings() {
  static std::once_flag once;
  std::call_once(once, [] { install_warning_redirect({begin, end}); });
}

}  // namespace jitflux
