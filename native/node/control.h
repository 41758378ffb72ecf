// What JavaScript needs of every library to control its work: abort flags and the log handler.
#pragma once

#include <atomic>

#include "node/handle.h"

namespace jitflux::addon {

template <>
struct HandleType<std::atomic<bool>> {
  static constexpr napi_type_tag tag = build_tag(0x1b64ea7d53c94f02, 0x93d0c7f82e5ba146);
  static constexpr const char* name = "abort flag";
};

// createAbortFlag, raiseAbortFlag and setLogHandler of src/engine/binding.ts.
void register_control(Napi::Env env, Napi::Object exports);

}  // namespace jitflux::addon
