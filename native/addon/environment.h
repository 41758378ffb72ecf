// State of one Node environment (the main thread or a worker), and the way from JavaScript to the
// inference threads and back: one for the CPU and one per accelerator in use. All methods run on
// the environment's JavaScript thread.
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <optional>

#include "addon/napi_setup.h"
#include "base/job.h"
#include "base/log.h"
#include "jit/operators.h"
#include "runtime/inference_thread.h"

namespace jitflux::addon {

// Where a job runs.
struct Placement {
  int device = -1;  // of an accelerator, or -1: the CPU
  int threads = 0;  // OpenMP threads, 0 for the default
};

class Environment final : public LogSink {
 public:
  static Environment& of(Napi::Env env);
  static void create(Napi::Env env);
  ~Environment();

  // Ends all work: what runs stops at its next checkpoint, what is queued does not start. Returns
  // when the inference threads have ended.
  void stop();

  // Builds the promise's value on the JavaScript thread once the work is done.
  using Settle = std::function<napi_value(Napi::Env)>;
  // Runs on the inference thread; may throw. Returns how to settle.
  using Work = std::function<Settle(const Job&)>;

  // Queues `work` and returns its promise, which settles when everything that the work has queued
  // on its device has run. `options` is the JavaScript `{ abort?, progress? }` object or undefined.
  Napi::Promise run(Napi::Env env, const Napi::Value& options, Work work, Placement where = {});

  // Queues work that nobody waits for; what it throws is logged.
  void run_later(int device, std::function<void()> work);

  // Once the work queued so far is done, gives freed memory back to the system: after a model has
  // been released, so that a service sees its memory again.
  void return_memory(int device);

  // Messages up to `level` go to `handler`, a function, from now on; to nobody if it is undefined.
  // They come on a later turn of the event loop, which they do not keep alive.
  void set_log_handler(const Napi::Value& handler, LogLevel level);
  void write(LogLevel level, const std::string& message) noexcept override;

  // What it returns is used on the device's inference thread only.
  jit::LifterCache& lifters(int device) { return worker(device).lifters; }
  int default_threads() const { return default_threads_; }

 private:
  static constexpr int kSilent = -1;

  struct Task;
  struct Message;
  struct Worker {
    jit::LifterCache lifters;
    InferenceThread thread;  // last: its work uses the members above
  };

  explicit Environment(Napi::Env env);
  static void on_message(napi_env env, napi_value, void* context, void* data);
  static void on_cleanup(napi_async_cleanup_hook_handle handle, void* self);
  static void on_closed(napi_env env, void* data, void* self);
  void execute(Task& task);
  void post(std::unique_ptr<Message> message);
  void deliver(Napi::Env env, const Message& message);
  void announce();
  void finish(Napi::Env env, Task* task);
  Worker& worker(int device);

  napi_env env_;
  napi_threadsafe_function messages_ = nullptr;
  napi_async_cleanup_hook_handle cleanup_ = nullptr;
  AbortFlag shutdown_ = std::make_shared<std::atomic<bool>>(false);
  int64_t pending_ = 0;
  bool announced_ = false;
  napi_ref log_handler_ = nullptr;
  std::atomic<int> log_level_ = kSilent;
  int default_threads_;
  std::map<int, std::unique_ptr<Worker>> workers_;  // last: their work uses the members above
};

}  // namespace jitflux::addon
