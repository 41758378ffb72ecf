#include "node/control.h"

#include <algorithm>
#include <iterator>
#include <memory>
#include <string>

#include "node/environment.h"
#include "node/errors.h"

namespace jitflux::addon {

namespace {

Napi::Value create_abort_flag(const Napi::CallbackInfo& info) {
  return make_handle(info.Env(), std::make_shared<std::atomic<bool>>(false));
}

Napi::Value raise_abort_flag(const Napi::CallbackInfo& info) {
  get_handle<std::atomic<bool>>(info[0])->store(true);
  return info.Env().Undefined();
}

// (handler | undefined, level)
Napi::Value set_log_handler(const Napi::CallbackInfo& info) {
  static constexpr const char* kLevels[] = {"error", "warn", "info", "debug"};
  const std::string name = info[1].IsString() ? info[1].As<Napi::String>().Utf8Value() : "";
  const auto* level = std::find(std::begin(kLevels), std::end(kLevels), name);
  if (level == std::end(kLevels) || !(info[0].IsFunction() || info[0].IsUndefined())) {
    throw Error(error_code::kInvalidArgument,
                "Expected a function or undefined, and error, warn, info or debug");
  }
  NodeEnvironment::of(info.Env())
      .set_log_handler(info[0], static_cast<LogLevel>(level - std::begin(kLevels)));
  return info.Env().Undefined();
}

}  // namespace

void register_control(Napi::Env env, Napi::Object exports) {
  exports.Set("createAbortFlag", Napi::Function::New<guarded<create_abort_flag>>(env));
  exports.Set("raiseAbortFlag", Napi::Function::New<guarded<raise_abort_flag>>(env));
  exports.Set("setLogHandler", Napi::Function::New<guarded<set_log_handler>>(env));
}

}  // namespace jitflux::addon
