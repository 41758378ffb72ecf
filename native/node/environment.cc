#include "node/environment.h"

#include <chrono>
#include <map>
#include <mutex>
#include <string>
#include <utility>

#include "node/control.h"
#include "node/errors.h"

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

// From another thread to JavaScript: something to log (no task), progress, or the end of the task.
struct NodeEnvironment::Message {
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

// One promise. Created and destroyed on the JavaScript thread.
struct NodeEnvironment::Task {
  explicit Task(napi_env of) : env(of) {}
  ~Task() {
    // Also where its environment ends before it: Node frees no reference by itself.
    for (napi_ref reference : {progress, thrown}) {
      if (reference != nullptr) napi_delete_reference(env, reference);
    }
  }
  Task(const Task&) = delete;
  Task& operator=(const Task&) = delete;

  napi_env env;
  napi_deferred deferred = nullptr;
  napi_ref progress = nullptr;  // the callback, if any
  napi_ref thrown = nullptr;    // what the callback threw, if it did
  Work work;
  Placement where;
  Job job;
  // Results, written by the worker thread before the final message.
  Settle settle;
  std::optional<Error> error;
  std::unique_ptr<Message> end;  // made beforehand: there may be no memory for it later
};

namespace {

// The latest of every Node environment; each owns itself until it is closed. Not the Node
// environment's instance data, of which there is one for all libraries that jit_flux.node opens.
struct Registry {
  std::mutex mutex;
  std::map<napi_env, NodeEnvironment*> latest;
};

// Never destroyed: worker threads of Node may outlive the static objects of this library.
Registry& registry() {
  static auto* const instance = new Registry;
  return *instance;
}

}  // namespace

NodeEnvironment& NodeEnvironment::of(Napi::Env env) {
  const std::lock_guard lock(registry().mutex);
  return *registry().latest.at(env);
}

void NodeEnvironment::adopt(std::unique_ptr<NodeEnvironment> environment) {
  stop_work_threads_at_exit();
  NodeEnvironment* const adopted = environment.get();
  open(std::move(environment));
  const std::lock_guard lock(registry().mutex);
  registry().latest[adopted->env_] = adopted;
}

// From the first call that succeeds on it belongs to `messages_`, whose end deletes it: on_closed.
void NodeEnvironment::open(std::unique_ptr<NodeEnvironment> environment) {
  const Error refused(error_code::kNative, "Could not set up the native environment");
  const Napi::Env env(environment->env_);
  const Napi::String name = Napi::String::New(env, "jit-flux");
  if (napi_create_threadsafe_function(env, nullptr, nullptr, name, 0, 1, nullptr, on_closed,
                                      environment.get(), on_message,
                                      &environment->messages_) != napi_ok) {
    throw refused;
  }
  NodeEnvironment* const self = environment.release();
  if (napi_unref_threadsafe_function(env, self->messages_) != napi_ok ||
      napi_add_async_cleanup_hook(env, on_cleanup, self, &self->cleanup_) != napi_ok) {
    napi_release_threadsafe_function(self->messages_, napi_tsfn_abort);
    throw refused;
  }
}

NodeEnvironment::~NodeEnvironment() = default;

void NodeEnvironment::stop() {
  shutdown_->store(true);
  threads_.clear();
}

// The environment goes away, perhaps with work in flight. The messages it posts are dropped.
void NodeEnvironment::on_cleanup(napi_async_cleanup_hook_handle, void* self) {
  auto* environment = static_cast<NodeEnvironment*>(self);
  environment->stop();
  if (environment->log_handler_ != nullptr) {
    napi_delete_reference(environment->env_, std::exchange(environment->log_handler_, nullptr));
  }
  napi_release_threadsafe_function(environment->messages_, napi_tsfn_abort);
}

// The clean-up ends here and not in on_cleanup: a garbage collection in between would leave Node
// (20.20) with finalizers to run, whose turn frees napi_env and then uses it if nothing else keeps
// it. Removing the hook gives up its share in a later turn. Messages that are still queued are
// dropped after this, without a look at the environment.
void NodeEnvironment::on_closed(napi_env, void*, void* self) {
  const std::unique_ptr<NodeEnvironment> environment(static_cast<NodeEnvironment*>(self));
  if (environment->cleanup_ != nullptr) napi_remove_async_cleanup_hook(environment->cleanup_);
  const std::lock_guard lock(registry().mutex);
  const auto found = registry().latest.find(environment->env_);
  if (found != registry().latest.end() && found->second == self) registry().latest.erase(found);
}

WorkThread& NodeEnvironment::thread(int device) {
  if (stopping()) throw Error(error_code::kAborted, "The process or thread is ending");
  auto& slot = threads_[device];
  if (slot == nullptr) slot = std::make_unique<WorkThread>(shutdown_, [this] { leave(); });
  return *slot;
}

Napi::Promise NodeEnvironment::run(Napi::Env env, const Napi::Value& options, Work work,
                                   Placement where) {
  auto task = std::make_unique<Task>(env);
  task->work = std::move(work);
  task->where = where;
  task->job.shutdown = shutdown_;
  Napi::Value progress = env.Undefined();
  if (options.IsObject()) {
    const auto object = options.As<Napi::Object>();
    const Napi::Value abort = object.Get("abort");
    if (!abort.IsUndefined()) task->job.abort = get_handle<std::atomic<bool>>(abort);
    progress = object.Get("progress");
  }
  if (progress.IsFunction()) {
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
  task->end = std::make_unique<Message>(Message{task.get(), std::nullopt, {}, {}});
  // After all JavaScript (getters) and before anything that must be given back: whoever stops this
  // environment has stopped it for good, and the system may have no thread left.
  WorkThread& worker = thread(where.device);
  std::function<void()> job = [this, raw = task.get()] {
    execute(*raw);
    post(std::move(raw->end));
  };
  if (progress.IsFunction() &&
      napi_create_reference(env, progress, 1, &task->progress) != napi_ok) {
    throw Error(error_code::kNative, "Could not keep the progress callback");
  }
  napi_value promise = nullptr;
  if (napi_create_promise(env, &task->deferred, &promise) != napi_ok) {
    throw Error(error_code::kNative, "Could not create a promise");
  }
  // Node stays alive while work is in flight, and only then.
  if (pending_++ == 0) napi_ref_threadsafe_function(env, messages_);
  Task* const raw = task.release();
  try {
    worker.post(std::move(job));
  } catch (...) {  // no memory for it
    raw->error = current_exception();
    finish(env, raw);
  }
  return Napi::Promise(env, promise);
}

void NodeEnvironment::perform(const Placement&, const std::function<void()>& work) { work(); }

void NodeEnvironment::execute(Task& task) {
  const LogScope log_scope(*this);
  try {
    task.job.checkpoint();
    perform(task.where, [&task] { task.settle = task.work(task.job); });
  } catch (...) {
    task.error = current_exception();
  }
  task.work = nullptr;  // releases what it captured
}

void NodeEnvironment::post(std::unique_ptr<Message> message) {
  // During shutdown the message (and at the end its task) is dropped: JavaScript cannot run any
  // more.
  if (napi_call_threadsafe_function(messages_, message.get(), napi_tsfn_nonblocking) == napi_ok) {
    (void)message.release();
  }
}

void NodeEnvironment::on_message(napi_env raw_env, napi_value, void* context, void* data) {
  const std::unique_ptr<Message> message(static_cast<Message*>(data));
  auto* self = static_cast<NodeEnvironment*>(context);
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

LogSink& log_sink(Napi::Env env) { return NodeEnvironment::of(env); }

void NodeEnvironment::set_log_handler(const Napi::Value& handler, LogLevel level) {
  if (log_handler_ != nullptr) napi_delete_reference(env_, std::exchange(log_handler_, nullptr));
  log_level_.store(kSilent);
  if (handler.IsUndefined()) return;
  if (napi_create_reference(env_, handler, 1, &log_handler_) != napi_ok) {
    throw Error(error_code::kNative, "Could not keep the log handler");
  }
  log_level_.store(static_cast<int>(level));
}

void NodeEnvironment::write(LogLevel level, std::string_view message) noexcept {
  if (static_cast<int>(level) > log_level_.load(std::memory_order_relaxed)) return;
  try {
    post(std::make_unique<Message>(Message{nullptr, std::nullopt, level, std::string(message)}));
  } catch (...) {  // no memory for it
  }
}

void NodeEnvironment::deliver(Napi::Env env, const Message& message) {
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

// Once: support cannot guess it.
void NodeEnvironment::announce() {
  if (std::exchange(announced_, true)) return;
  const std::string text = description();
  if (!text.empty()) write(LogLevel::kDebug, text);
}

void NodeEnvironment::finish(Napi::Env env, Task* raw) {
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
}

}  // namespace jitflux::addon
