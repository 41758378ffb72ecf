// What LibTorch throws, as errors of our own.
#pragma once

#include "node/errors.h"

namespace jitflux::addon {

// LibTorch's errors get their first line and a code (node/errors.h) from now on.
void translate_torch_exceptions();

// An out-of-memory error of a job on a device: if it was the device's memory that ran out, with
// what was asked for and what the device has (details device, requestedBytes if LibTorch told,
// freeBytes, totalBytes, allocatedBytes, reservedBytes, reason); as it is if it was the host's.
Error with_device_memory(const Error& error, int device);

}  // namespace jitflux::addon
