#include "addon/environment.h"

#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>
#include <malloc.h>

#include <chrono>
#include <string>
#include <utility>

#include "addon/errors.h"
#include "addon/handles.h"
#include "kernels/kernels.h"
#include "runtime/device.h"

namespace jitflux::addon {

namespace {

constexpr auto kProgressInterval = std::chrono::milliseconds(30);

// Calls a JavaScript function. False if it did not return; `thrown` is then what it threw, or null
// if the worker thread is being terminated. Napi::Function would make an Error of that, which is no
// longer possible then.
bool call(napi_env env, napi_value function, size_t count, const napi_value* arguments,
          napi_value* thrown) {
  napi_value undefined = nullptr;
  napi_value result = nullptr;
  napi_get_undefined(env, &undefined);
  if (napi_call_function(env, undefined, function, count, arguments, &result) == napi_ok) {
    return true;
  }
  bool pending = false;
  if (napi_is_exception_pending(env, &pending) == napi_ok && pending) {
    napi_get_and_clear_last_exception(env, thrown);
  }
  return false;
}

}  // namespace

// One promise. Created and destroyed on the JavaScript thread.
struct Environment::Task {
  napi_deferred deferred = nullptr;
  napi_ref progress = nullptr;  // the callback, if any
  napi_ref thrown = nullptr;    // what the callback threw, if it did
  Work work;
  Placement where;
  Job job;
  // Results, written by the inference thread before the final message.
  Settle settle;
  std::optional<Error> error;
};

// From another thread to JavaScript: something to log (no task), progress, or the end of the task.
struct Environment::Message {
  struct Progress {
    uint64_t done;
    uint64_t total;
    std::string what;
  };
  Task* task;
  std::optional<Progress> progress;
  LogLevel level{};
  std::string text;
};

Environment& Environment::of(Napi::Env env) { return *env.GetInstanceData<Environment>(); }

void Environment::create(Napi::Env env) { env.SetInstanceData(new Environment(env)); }

Environment::Environment(Napi::Env env) : env_(env), default_threads_(at::get_num_threads()) {
  const Napi::String name = Napi::String::New(env, "jit-flux");
  if (napi_create_threadsafe_function(env, nullptr, nullptr, name, 0, 1, nullptr, on_closed, this,
                                      on_message, &messages_) != napi_ok ||
      napi_unref_threadsafe_function(env, messages_) != napi_ok ||
      napi_add_async_cleanup_hook(env, on_cleanup, this, &cleanup_) != napi_ok) {
    throw Error(error_code::kNative, "Could not set up the native environment");
  }
}

Environment::~Environment() = default;

void Environment::stop() {
  shutdown_->store(true);
  workers_.clear();
}

// The environment goes away, perhaps with work in flight. The messages it posts are dropped.
void Environment::on_cleanup(napi_async_cleanup_hook_handle, void* self) {
  auto* environment = static_cast<Environment*>(self);
  environment->stop();
  napi_release_threadsafe_function(environment->messages_, napi_tsfn_abort);
}

// The clean-up ends here and not in on_cleanup: a garbage collection in between would leave Node
// (20.20) with finalizers to run, whose turn frees napi_env and then uses it if nothing else keeps
// it. Removing the hook gives up its share in a later turn.
void Environment::on_closed(napi_env, void*, void* self) {
  napi_remove_async_cleanup_hook(static_cast<Environment*>(self)->cleanup_);
}

Environment::Worker& Environment::worker(int device) {
  auto& slot = workers_[device];
  if (slot == nullptr) slot = std::make_unique<Worker>();
  return *slot;
}

Napi::Promise Environment::run(Napi::Env env, const Napi::Value& options, Work work,
                               Placement where) {
  // After stop() a thread would outlive the libraries' global objects.
  if (shutdown_->load()) throw Error(error_code::kAborted, "The process or thread is ending");
  auto task = std::make_unique<Task>();
  task->work = std::move(work);
  task->where = where;
  task->job.shutdown = shutdown_;
  if (options.IsObject()) {
    const auto object = options.As<Napi::Object>();
    const Napi::Value abort = object.Get("abort");
    if (!abort.IsUndefined()) task->job.abort = get_handle<std::atomic<bool>>(abort);
    const Napi::Value progress = object.Get("progress");
    if (progress.IsFunction()) napi_create_reference(env, progress, 1, &task->progress);
  }
  napi_value promise = nullptr;
  if (napi_create_promise(env, &task->deferred, &promise) != napi_ok) {
    throw Error(error_code::kNative, "Could not create a promise");
  }
  if (task->progress != nullptr) {
    if (!task->job.abort) task->job.abort = std::make_shared<std::atomic<bool>>(false);
    auto last = std::make_shared<std::chrono::steady_clock::time_point>();
    task->job.progress = [this, raw = task.get(), last](uint64_t done, uint64_t total,
                                                        const std::string& what) {
      const auto now = std::chrono::steady_clock::now();
      if (done != total && now - *last < kProgressInterval) return;
      *last = now;
      post(std::make_unique<Message>(Message{raw, Message::Progress{done, total, what}, {}, {}}));
    };
  }
  announce();
  // Node stays alive while work is in flight, and only then.
  if (pending_++ == 0) napi_ref_threadsafe_function(env, messages_);
  Task* raw = task.release();
  worker(where.device).thread.post([this, raw] {
    execute(*raw);
    post(std::make_unique<Message>(Message{raw, std::nullopt, {}, {}}));
  });
  return Napi::Promise(env, promise);
}

void Environment::run_later(int device, std::function<void()> work) {
  if (shutdown_->load()) return;
  worker(device).thread.post([this, device, work = std::move(work)]() mutable {
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
  if (shutdown_->load()) return;
  if (device < 0) {
    worker(device).thread.post([] { malloc_trim(0); });
  } else {
    run_later(device, [device] { device_backend()->release_cached_memory(device); });
  }
}

void Environment::execute(Task& task) {
  const int device = task.where.device;
  const LogScope log_scope(*this);
  try {
    const c10::InferenceMode inference;
    const int threads = task.where.threads > 0 ? task.where.threads : default_threads_;
    if (at::get_num_threads() != threads) at::set_num_threads(threads);
    task.job.checkpoint();
    const DeviceScope scope(device);
    try {
      task.settle = task.work(task.job);
      // Only now: errors of the device belong to the job that caused them, times are true, and
      // tensors of finished jobs may be used on any thread.
      if (DeviceSession* session = current_session()) session->synchronize();
    } catch (...) {
      task.error = current_exception();
      // What was queued before the failure may still use the tensors that are released below.
      if (DeviceSession* session = current_session()) session->synchronize();
      if (device >= 0 && task.error->code() == error_code::kOutOfMemory) {
        task.error = with_device_memory(*task.error, device);
        device_backend()->release_cached_memory(device);
      }
    }
  } catch (...) {
    if (!task.error) task.error = current_exception();
  }
  task.work = nullptr;  // releases the tensors it captured
}

void Environment::post(std::unique_ptr<Message> message) {
  // During shutdown the message (and at the end its task) is dropped: JavaScript cannot run any
  // more.
  if (napi_call_threadsafe_function(messages_, message.get(), napi_tsfn_nonblocking) == napi_ok) {
    (void)message.release();
  }
}

void Environment::on_message(napi_env raw_env, napi_value, void* context, void* data) {
  const std::unique_ptr<Message> message(static_cast<Message*>(data));
  auto* self = static_cast<Environment*>(context);
  // Teardown, or stopped for it: promises and references die with their environment.
  if (raw_env == nullptr || self->shutdown_->load()) {
    if (!message->progress) delete message->task;  // null if there is something to log
    return;
  }
  const Napi::Env env(raw_env);
  const Napi::HandleScope scope(env);
  Task* task = message->task;
  if (task == nullptr) return self->deliver(env, *message);
  if (!message->progress) {
    try {
      self->finish(env, task);
    } catch (const Napi::Error&) {  // a worker thread is being terminated: no JavaScript any more
    }
    return;
  }
  napi_value callback = nullptr;
  if (napi_get_reference_value(env, task->progress, &callback) != napi_ok) return;
  napi_value arguments[3] = {};
  napi_create_double(env, static_cast<double>(message->progress->done), &arguments[0]);
  napi_create_double(env, static_cast<double>(message->progress->total), &arguments[1]);
  const std::string& what = message->progress->what;
  napi_create_string_utf8(env, what.data(), what.size(), &arguments[2]);
  napi_value thrown = nullptr;
  if (call(env, callback, 3, arguments, &thrown)) return;
  // A callback that throws ends the task and becomes its rejection.
  task->job.abort->store(true);
  if (task->thrown == nullptr && thrown != nullptr) {
    napi_create_reference(env, thrown, 1, &task->thrown);
  }
}

LogSink& log_sink(Napi::Env env) { return Environment::of(env); }

void Environment::set_log_handler(const Napi::Value& handler, LogLevel level) {
  if (log_handler_ != nullptr) napi_delete_reference(env_, std::exchange(log_handler_, nullptr));
  log_level_.store(kSilent);
  if (handler.IsUndefined()) return;
  if (napi_create_reference(env_, handler, 1, &log_handler_) != napi_ok) {
    throw Error(error_code::kNative, "Could not keep the log handler");
  }
  log_level_.store(static_cast<int>(level));
}

void Environment::write(LogLevel level, const std::string& message) noexcept {
  if (static_cast<int>(level) > log_level_.load(std::memory_order_relaxed)) return;
  try {
    post(std::make_unique<Message>(Message{nullptr, std::nullopt, level, message}));
  } catch (...) {  // no memory for it
  }
}

void Environment::deliver(Napi::Env env, const Message& message) {
  static constexpr const char* kNames[] = {"error", "warn", "info", "debug"};
  // The handler may have changed since.
  if (static_cast<int>(message.level) > log_level_.load()) return;
  napi_value handler = nullptr;
  if (napi_get_reference_value(env, log_handler_, &handler) != napi_ok) return;
  napi_value arguments[2] = {};
  napi_create_string_utf8(env, kNames[static_cast<int>(message.level)], NAPI_AUTO_LENGTH,
                          &arguments[0]);
  napi_create_string_utf8(env, message.text.data(), message.text.size(), &arguments[1]);
  napi_value ignored = nullptr;  // a logger that fails must not take the work with it
  call(env, handler, 2, arguments, &ignored);
}

// What computes here, once: support cannot guess it.
void Environment::announce() {
  if (std::exchange(announced_, true)) return;
  write(LogLevel::kDebug, std::string("jit-flux ") + JIT_FLUX_VERSION + " computes with " +
                              kernels::table().isa + " kernels and " +
                              std::to_string(default_threads_) + " threads");
}

void Environment::finish(Napi::Env env, Task* raw) {
  const std::unique_ptr<Task> task(raw);
  if (--pending_ == 0) napi_unref_threadsafe_function(env, messages_);
  napi_value value = nullptr;
  bool resolved = false;
  if (task->thrown != nullptr) {
    napi_get_reference_value(env, task->thrown, &value);
  } else if (!task->error) {
    try {
      value = task->settle(env);
      resolved = true;
    } catch (const Napi::Error& error) {
      value = error.Value();
    } catch (...) {
      task->error = current_exception();
    }
  }
  if (value == nullptr) value = to_js(env, *task->error).Value();
  if (resolved) {
    napi_resolve_deferred(env, task->deferred, value);
  } else {
    napi_reject_deferred(env, task->deferred, value);
  }
  if (task->progress != nullptr) napi_delete_reference(env, task->progress);
  if (task->thrown != nullptr) napi_delete_reference(env, task->thrown);
}

}  // namespace jitflux::addon
