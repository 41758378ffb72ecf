// State of one Node environment (the main thread or a worker), and the way from JavaScript to the
// inference thread and back. All methods run on the environment's JavaScript thread.
#pragma once

#include <functional>
#include <memory>
#include <optional>

#include "addon/napi_setup.h"
#include "jit/operators.h"
#include "runtime/inference_thread.h"
#include "runtime/job.h"

namespace jitflux::addon {

class Environment {
 public:
  static Environment& of(Napi::Env env);
  static void create(Napi::Env env);
  ~Environment();

  // Builds the promise's value on the JavaScript thread once the work is done.
  using Settle = std::function<napi_value(Napi::Env)>;
  // Runs on the inference thread; may throw. Returns how to settle.
  using Work = std::function<Settle(const Job&)>;

  // Queues `work` and returns its promise. `options` is the JavaScript `{ abort?, progress? }`
  // object or undefined. `threads`: OpenMP threads, 0 for the default.
  Napi::Promise run(Napi::Env env, const Napi::Value& options, Work work, int threads = 0);

  // Once the work queued so far is done, gives freed memory back to the system: after a model has
  // been released, so that a service sees its memory again.
  void return_memory();

  // Used on the inference thread only.
  jit::LifterCache& lifters() { return lifters_; }
  int default_threads() const { return default_threads_; }

 private:
  struct Task;
  struct Message;

  explicit Environment(Napi::Env env);
  static void on_message(napi_env env, napi_value, void* context, void* data);
  static void on_cleanup(void* self);
  void execute(Task& task);
  void post(Task* task, std::unique_ptr<Message> message);
  void finish(Napi::Env env, Task* task);

  napi_env env_;
  napi_threadsafe_function messages_ = nullptr;
  AbortFlag shutdown_ = std::make_shared<std::atomic<bool>>(false);
  int64_t pending_ = 0;
  int default_threads_;
  jit::LifterCache lifters_;
  std::unique_ptr<InferenceThread> thread_;  // last: its work uses the members above
};

}  // namespace jitflux::addon
