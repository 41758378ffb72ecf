#include "addon/errors.h"

#include <c10/util/Exception.h>

#include <cstdio>
#include <new>
#include <optional>
#include <string>

#include "runtime/device.h"
#include "runtime/out_of_memory.h"

namespace jitflux::addon {

namespace {

std::optional<Error> torch_exception() {
  try {
    throw;
  } catch (const c10::Error& error) {
    return Error(is_out_of_memory(error) ? error_code::kOutOfMemory : error_code::kNative,
                 first_line(error.what_without_backtrace()));
  } catch (const std::bad_alloc&) {
    return std::nullopt;  // known without LibTorch
  } catch (const std::exception& error) {
    if (!is_out_of_memory(error)) return std::nullopt;
    return Error(error_code::kOutOfMemory, "Out of host memory (" + first_line(error.what()) + ")");
  } catch (...) {
    return std::nullopt;
  }
}

}  // namespace

void translate_torch_exceptions() { install_exception_translator(torch_exception); }

namespace {

// Of "... Tried to allocate 2.00 GiB. ..." in the allocator's message; negative if it is not there.
double requested_bytes(const std::string& message) {
  static constexpr const char* kPhrase = "Tried to allocate ";
  const size_t at = message.find(kPhrase);
  double amount = -1;
  char unit[8] = {};
  if (at == std::string::npos || std::sscanf(message.c_str() + at + std::string(kPhrase).size(),
                                             "%lf %7[A-Za-z]", &amount, unit) != 2) {
    return -1;
  }
  switch (unit[0]) {
    case 'K':
      return amount * 1024;
    case 'M':
      return amount * 1024 * 1024;
    case 'G':
      return amount * 1024 * 1024 * 1024;
    default:
      return amount;
  }
}

// Whether an out-of-memory message is about a device.
bool is_device_memory(const std::string& message) {
  if (device_backend()->device(0).is_cpu()) return true;  // an emulated one has the host's memory
  const auto says = [&](const char* text) { return message.find(text) != std::string::npos; };
  return says("CUDA") || says("CUBLAS") || says("CUDNN");
}

std::string gibibytes(double bytes) {
  char text[32];
  std::snprintf(text, sizeof text, "%.2f GiB", bytes / (1024.0 * 1024.0 * 1024.0));
  return text;
}

}  // namespace

Error with_device_memory(const Error& error, int device) {
  if (!is_device_memory(error.what())) return error;
  const DeviceInfo info = device_backend()->info(device);
  const auto number = [](uint64_t bytes) { return DetailValue(static_cast<double>(bytes)); };
  const double requested = requested_bytes(error.what());
  const std::string name = "cuda:" + std::to_string(device);
  Details details = error.details();
  details.emplace_back("device", name);
  if (requested >= 0) details.emplace_back("requestedBytes", requested);
  details.emplace_back("freeBytes", number(info.free_bytes));
  details.emplace_back("totalBytes", number(info.total_bytes));
  details.emplace_back("allocatedBytes", number(info.allocated_bytes));
  details.emplace_back("reservedBytes", number(info.reserved_bytes));
  details.emplace_back("reason", std::string(error.what()));
  const std::string wanted = requested >= 0 ? " for " + gibibytes(requested) : "";
  return Error(error.code(),
               "Out of memory on " + name + " (" + info.name + ")" + wanted + ": " +
                   gibibytes(static_cast<double>(info.free_bytes)) + " of " +
                   gibibytes(static_cast<double>(info.total_bytes)) +
                   " are free, tensors of this process take " +
                   gibibytes(static_cast<double>(info.allocated_bytes)),
               std::move(details));
}

}  // namespace jitflux::addon
