// JavaScript's way to the accelerators: which there are, and their memory.
#include "addon/arguments.h"
#include "addon/environment.h"
#include "addon/errors.h"
#include "addon/registration.h"
#include "runtime/device.h"

namespace jitflux::addon {

namespace {

// (path)
Napi::Value open_library(const Napi::CallbackInfo& info) {
  open_device_library(parse_string(info[0], "path"), JIT_FLUX_VERSION, JIT_FLUX_LIBTORCH_VERSION);
  return info.Env().Undefined();
}

// () -> number of devices
Napi::Value device_count(const Napi::CallbackInfo& info) {
  DeviceBackend* backend = device_backend();
  return Napi::Number::New(info.Env(), backend == nullptr ? 0 : backend->count());
}

// () -> why there are none, or undefined
Napi::Value unavailable_reason(const Napi::CallbackInfo& info) {
  DeviceBackend* backend = device_backend();
  if (backend == nullptr || backend->count() > 0) return info.Env().Undefined();
  return Napi::String::New(info.Env(), backend->unavailable_reason());
}

// (device, job) -> facts about it. On its thread: asking a device may start it.
Napi::Value device_info(const Napi::CallbackInfo& info) {
  const int device = parse_accelerator(info[0]);
  return Environment::of(info.Env())
      .run(info.Env(), info[1],
           [device](const Job&) {
             const DeviceInfo found = device_backend()->info(device);
             return Environment::Settle([device, found](Napi::Env env) -> napi_value {
               Napi::Object result = Napi::Object::New(env);
               const auto number = [&](const char* key, double value) {
                 result.Set(key, Napi::Number::New(env, value));
               };
               number("index", device);
               result.Set("name", Napi::String::New(env, found.name));
               result.Set("computeCapability",
                          Napi::String::New(env, std::to_string(found.major) + "." +
                                                     std::to_string(found.minor)));
               number("multiprocessors", found.multiprocessors);
               number("totalBytes", static_cast<double>(found.total_bytes));
               number("freeBytes", static_cast<double>(found.free_bytes));
               number("allocatedBytes", static_cast<double>(found.allocated_bytes));
               number("reservedBytes", static_cast<double>(found.reserved_bytes));
               number("peakAllocatedBytes", static_cast<double>(found.peak_bytes));
               return result;
             });
           },
           {device});
}

// (device): the peak of what is allocated counts from now on
Napi::Value reset_peak(const Napi::CallbackInfo& info) {
  const int device = parse_device(info[0]);
  if (device >= 0) {
    Environment::of(info.Env()).run_later(device, [device] {
      device_backend()->reset_peak(device);
    });
  }
  return info.Env().Undefined();
}

}  // namespace

void register_devices(Napi::Env env, Napi::Object exports) {
  exports.Set("openDeviceLibrary", Napi::Function::New<guarded<open_library>>(env));
  exports.Set("deviceCount", Napi::Function::New<guarded<device_count>>(env));
  exports.Set("deviceUnavailableReason", Napi::Function::New<guarded<unavailable_reason>>(env));
  exports.Set("deviceInfo", Napi::Function::New<guarded<device_info>>(env));
  exports.Set("resetPeakMemory", Napi::Function::New<guarded<reset_peak>>(env));
}

}  // namespace jitflux::addon
