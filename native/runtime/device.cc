#include "runtime/device.h"

#include <ATen/ops/from_blob.h>
#include <dlfcn.h>

#include <atomic>
#include <cstring>
#include <map>
#include <mutex>
#include <utility>

#include "base/error.h"

namespace jitflux {

namespace {

constexpr int kCpu = -1;

std::atomic<DeviceBackend*> opened_backend{nullptr};

// A thread's sessions, and the one in use. A thread that has some calls leave_devices() at its end:
// this variable's own destructor would be too late.
thread_local std::map<int, std::unique_ptr<DeviceSession>> sessions;
thread_local int current_index = kCpu;

// This thread's session of a device, entered on first use.
DeviceSession* session(int index) {
  auto& slot = sessions[index];
  if (slot == nullptr) {
    DeviceBackend* backend = device_backend();
    if (backend == nullptr || index >= backend->count()) {
      throw Error(error_code::kDeviceUnavailable,
                  "There is no device " + std::to_string(index) + " in this process");
    }
    slot = backend->enter(index);
  }
  return slot.get();
}

std::string last_dl_error() {
  const char* reason = ::dlerror();
  return reason == nullptr ? "unknown error" : reason;
}

}  // namespace

void open_device_library(const std::string& path, const char* version, const char* libtorch) {
  static std::mutex mutex;
  static std::string opened_path;
  const std::lock_guard lock(mutex);
  if (device_backend() != nullptr) {
    if (path == opened_path) return;
    throw Error(error_code::kNative, "A device library is open already: " + opened_path);
  }
  // As the loader opens the core: for good, and out of other addons' way.
  void* library = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
  if (library == nullptr) throw Error(error_code::kNative, "Cannot load " + last_dl_error());
  void* symbol = ::dlsym(library, kDeviceLibraryFunction);
  if (symbol == nullptr) {
    throw Error(error_code::kNative,
                "Cannot use " + path + ": it does not export " + kDeviceLibraryFunction);
  }
  const DeviceLibrary* found = reinterpret_cast<DeviceLibraryFunction>(symbol)();
  if (std::strcmp(found->version, version) != 0 || std::strcmp(found->libtorch, libtorch) != 0) {
    throw Error(error_code::kDeviceUnavailable, path + " was built for jit-flux " + found->version +
                                                    " and LibTorch " + found->libtorch +
                                                    ", but this is jit-flux " + version +
                                                    " for LibTorch " + libtorch);
  }
  opened_backend.store(found->backend());
  opened_path = path;
}

DeviceBackend* device_backend() { return opened_backend.load(); }

int device_index(const at::Device& device) {
  DeviceBackend* backend = device_backend();
  if (backend == nullptr) return kCpu;
  // A backend may compute in host memory (the emulation of test/cuda): then the CPU's tensors are
  // its own.
  if (device.type() != backend->device(0).type()) return kCpu;
  return device.has_index() ? device.index() : 0;
}

DeviceScope::DeviceScope(int index) : outer_(current_index) {
  if (index != kCpu) session(index);
  current_index = index;
}

DeviceScope::~DeviceScope() { current_index = outer_; }

void leave_devices() noexcept { sessions.clear(); }

DeviceSession* current_session() {
  return current_index == kCpu ? nullptr : sessions[current_index].get();
}

const kernels::DeviceKernels* current_kernels() {
  return current_index == kCpu ? nullptr : &device_backend()->kernels();
}

at::Device current_device() {
  return current_index == kCpu ? at::Device(at::kCPU) : device_backend()->device(current_index);
}

at::TensorOptions options_here(at::ScalarType dtype) {
  return at::TensorOptions(dtype).device(current_device());
}

at::Tensor on_current_device(const std::vector<int32_t>& list) {
  if (list.empty()) return {};
  const at::Tensor host = at::from_blob(const_cast<int32_t*>(list.data()),
                                        {static_cast<int64_t>(list.size())}, at::kInt);
  // Read before the call returns: pageable memory is staged.
  return host.to(current_device(), at::kInt, /*non_blocking=*/true);
}

kernels::Element element_of(at::ScalarType dtype) {
  switch (dtype) {
    case at::kBFloat16:
      return kernels::Element::kBFloat16;
    case at::kHalf:
      return kernels::Element::kFloat16;
    default:
      return kernels::Element::kFloat32;
  }
}

}  // namespace jitflux
