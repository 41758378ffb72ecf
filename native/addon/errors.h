// Exceptions to JavaScript errors. Nothing but Napi::Error ever leaves a function called by Node.
#pragma once

#include "addon/napi_setup.h"
#include "base/error.h"
#include "base/log.h"

namespace jitflux::addon {

// The exception being handled, as our own type: LibTorch's errors get their first line and a code.
Error current_exception();

// An out-of-memory error of a job on a device: if it was the device's memory that ran out, with
// what was asked for and what the device has (details device, requestedBytes if LibTorch told,
// freeBytes, totalBytes, allocatedBytes, reservedBytes, reason); as it is if it was the host's.
Error with_device_memory(const Error& error, int device);

// An Error object with `code` and `details`.
Napi::Error to_js(Napi::Env env, const Error& error);

// Where messages of this environment go.
LogSink& log_sink(Napi::Env env);

// Wraps a native function so that everything it throws becomes a JavaScript exception.
template <Napi::Value (*F)(const Napi::CallbackInfo&)>
Napi::Value guarded(const Napi::CallbackInfo& info) {
  const LogScope scope(log_sink(info.Env()));
  try {
    return F(info);
  } catch (const Napi::Error&) {
    throw;
  } catch (...) {
    throw to_js(info.Env(), current_exception());
  }
}

}  // namespace jitflux::addon
