// State of one Node environment (the main thread or a worker) in one library, and the way from
// JavaScript to its worker threads and back. No LibTorch here: what its work needs around it, the
// core adds (addon/environment.h). All methods run on the environment's JavaScript thread.
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <optional>

#include "base/job.h"
#include "base/log.h"
#include "base/work_thread.h"
#include "node/napi_setup.h"

namespace jitflux::addon {

// Where a job runs.
struct Placement {
  int device = -1;  // of an accelerator, or -1: the CPU
  int threads = 0;  // OpenMP threads, 0 for the default
};

class NodeEnvironment : public LogSink {
 public:
  // This library's; the core and the weights library each have one of their own.
  static NodeEnvironment& of(Napi::Env env);
  // Makes it the one that of() returns. It lives until its Node environment ends, also if another
  // one is adopted meanwhile. Throws kNative if Node refuses what it needs.
  static void adopt(std::unique_ptr<NodeEnvironment> environment);

  virtual ~NodeEnvironment();

  // Ends all work: what runs stops at its next checkpoint, what is queued does not start. Returns
  // when the worker threads have ended.
  virtual void stop();

  // Builds the promise's value on the JavaScript thread once the work is done.
  using Settle = std::function<napi_value(Napi::Env)>;
  // Runs on the worker thread; may throw. Returns how to settle.
  using Work = std::function<Settle(const Job&)>;

  // Queues `work` and returns its promise, which settles when perform() has returned. `options` is
  // the JavaScript `{ abort?, progress? }` object or undefined.
  Napi::Promise run(Napi::Env env, const Napi::Value& options, Work work, Placement where = {});

  // Messages up to `level` go to `handler`, a function, from now on; to nobody if it is undefined.
  // They come on a later turn of the event loop, which they do not keep alive.
  void set_log_handler(const Napi::Value& handler, LogLevel level);
  void write(LogLevel level, std::string_view message) noexcept override;

 protected:
  explicit NodeEnvironment(Napi::Env env) : env_(env) {}

  // Runs on the worker thread of `where`: calls `work` once, in the surroundings that it needs.
  virtual void perform(const Placement& where, const std::function<void()>& work);
  // A worker thread of this environment is about to end; runs there.
  virtual void leave() noexcept {}
  // What is worth knowing about this environment, once, before its first job; empty: nothing.
  virtual std::string description() const { return {}; }

  // The one of a device (-1: the CPU); starts it if need be. Throws kAborted after stop(), kNative
  // if the system has no thread to give.
  WorkThread& thread(int device);
  bool stopping() const { return shutdown_->load(); }

 private:
  static constexpr int kSilent = -1;

  struct Task;
  struct Message;

  static void on_message(napi_env env, napi_value, void* context, void* data);
  static void on_cleanup(napi_async_cleanup_hook_handle handle, void* self);
  static void on_closed(napi_env env, void* data, void* self);
  static void open(std::unique_ptr<NodeEnvironment> environment);
  void execute(Task& task);
  void post(std::unique_ptr<Message> message);
  void deliver(Napi::Env env, const Message& message);
  void announce();
  void finish(Napi::Env env, Task* task);

  napi_env env_;
  napi_threadsafe_function messages_ = nullptr;
  napi_async_cleanup_hook_handle cleanup_ = nullptr;
  AbortFlag shutdown_ = std::make_shared<std::atomic<bool>>(false);
  int64_t pending_ = 0;
  bool announced_ = false;
  napi_ref log_handler_ = nullptr;
  std::atomic<int> log_level_ = kSilent;
  std::map<int, std::unique_ptr<WorkThread>> threads_;  // last: their work uses the members above
};

}  // namespace jitflux::addon
