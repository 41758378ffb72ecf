#include "addon/environment.h"

#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>
#include <malloc.h>

#include <mutex>
#include <optional>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "addon/errors.h"
#include "kernels/kernels.h"
#include "runtime/device.h"

namespace jitflux::addon {

namespace {

// libgomp ends the process if the system refuses it a thread. It keeps those of a team from one
// operation to the next, so that a look before the first one suffices: throws kNative unless this
// thread can have a team of `threads`.
void expect_team(int threads) {
  thread_local int expected = 1;
  if (threads <= expected) return;
  std::mutex hold;
  std::vector<std::thread> helpers;
  helpers.reserve(static_cast<size_t>(threads));
  std::optional<Error> refused;
  {
    const std::lock_guard until_all_are_there(hold);
    try {
      for (int i = 1; i < threads; ++i) {
        helpers.emplace_back([&hold] { const std::lock_guard wait(hold); });
      }
    } catch (const std::system_error& error) {
      refused = no_thread(error);
    } catch (...) {
      refused = current_exception();
    }
  }
  for (std::thread& helper : helpers) helper.join();
  if (refused) throw *refused;
  expected = threads;
}

}  // namespace

Environment& Environment::of(Napi::Env env) {
  return static_cast<Environment&>(NodeEnvironment::of(env));
}

void Environment::create(Napi::Env env) {
  adopt(std::unique_ptr<NodeEnvironment>(new Environment(env)));
}

Environment::Environment(Napi::Env env)
    : NodeEnvironment(env), default_threads_(at::get_num_threads()) {}

// The threads use this class's members.
Environment::~Environment() { Environment::stop(); }

void Environment::stop() {
  NodeEnvironment::stop();
  lifters_.clear();
}

void Environment::run_later(int device, std::function<void()> work) {
  if (stopping()) return;
  thread(device).post([this, device, work = std::move(work)]() mutable {
    const LogScope log_scope(*this);
    try {
      const c10::InferenceMode inference;
      const DeviceScope scope(device);
      work();
      if (DeviceSession* session = current_session()) session->synchronize();
      work = nullptr;  // releases, on this thread, what nothing uses any more
    } catch (...) {
      log(LogLevel::kError, current_exception().what());
    }
  });
}

void Environment::return_memory(int device) {
  if (stopping()) return;
  if (device < 0) {
    thread(device).post([] { malloc_trim(0); });
  } else {
    run_later(device, [device] { device_backend()->release_cached_memory(device); });
  }
}

void Environment::perform(const Placement& where, const std::function<void()>& work) {
  const int device = where.device;
  const c10::InferenceMode inference;
  const int threads = where.threads > 0 ? where.threads : default_threads_;
  expect_team(threads);
  if (at::get_num_threads() != threads) at::set_num_threads(threads);
  const DeviceScope scope(device);
  std::optional<Error> error;
  try {
    work();
    // Only now: errors of the device belong to the job that caused them, times are true, and
    // tensors of finished jobs may be used on any thread.
    if (DeviceSession* session = current_session()) session->synchronize();
    return;
  } catch (...) {
    error = current_exception();
  }
  try {
    // What was queued before the failure may still use the tensors that are released afterwards.
    if (DeviceSession* session = current_session()) session->synchronize();
    if (device >= 0 && error->code() == error_code::kOutOfMemory) {
      error = with_device_memory(*error, device);
      device_backend()->release_cached_memory(device);
    }
  } catch (...) {  // the first failure is the one to report
  }
  throw *error;
}

void Environment::leave() noexcept { leave_devices(); }

// What computes here.
std::string Environment::description() const {
  return std::string("jit-flux ") + JIT_FLUX_VERSION + " computes with " + kernels::table().isa +
         " kernels and " + std::to_string(default_threads_) + " threads";
}

}  // namespace jitflux::addon
