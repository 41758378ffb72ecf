// The CUDA devices of this process, as the engine's DeviceBackend.
#pragma once

#include "runtime/device.h"

namespace jitflux::cuda {

// Made on first use and never destroyed, so that no destructor runs after the driver's.
DeviceBackend* backend();

}  // namespace jitflux::cuda
