// The core's share of a Node environment: its worker threads are the inference threads, one for the
// CPU and one per accelerator in use, on which all tensor work runs in LibTorch's inference mode.
#pragma once

#include <functional>
#include <map>
#include <string>

#include "jit/lifter.h"
#include "node/environment.h"

namespace jitflux::addon {

class Environment final : public NodeEnvironment {
 public:
  static Environment& of(Napi::Env env);
  static void create(Napi::Env env);
  ~Environment() override;

  void stop() override;

  // Queues work that nobody waits for; what it throws is logged.
  void run_later(int device, std::function<void()> work);

  // Once the work queued so far is done, gives freed memory back to the system: after a model has
  // been released, so that a service sees its memory again.
  void return_memory(int device);

  // What it returns is used on the device's inference thread only.
  jit::LifterCache& lifters(int device) { return lifters_[device]; }
  int default_threads() const { return default_threads_; }

 private:
  explicit Environment(Napi::Env env);
  // The job has ended when everything that the work has queued on its device has run.
  void perform(const Placement& where, const std::function<void()>& work) override;
  void leave() noexcept override;
  std::string description() const override;

  int default_threads_;
  std::map<int, jit::LifterCache> lifters_;
};

}  // namespace jitflux::addon
