#include "base/work_thread.h"

#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <new>
#include <string>
#include <utility>
#include <vector>

namespace jitflux {

// Of the thread as well as of its owner: the end of the process may overtake either.
struct WorkThread::State {
  AbortFlag shutdown;
  std::function<void()> leave;
  std::mutex mutex;
  std::condition_variable ready;
  std::deque<std::function<void()>> queue;
  bool stopping = false;   // ends when the queue is empty
  bool abandoned = false;  // ends before the next piece of work
  std::atomic<pid_t> id = 0;
  std::atomic<bool> left = false;

  // False once the thread is gone, its thread-local objects included.
  bool alive() const {
    if (!left.load(std::memory_order_acquire)) return true;
    return syscall(SYS_tgkill, getpid(), id.load(), 0) == 0;
  }
};

// This library's work threads.
struct WorkThreadRegistry {
  std::mutex mutex;
  std::vector<std::shared_ptr<WorkThread::State>> threads;
  bool ending = false;
  pid_t process = 0;

  // Never destroyed: it is used while static objects are.
  static WorkThreadRegistry& get() {
    static auto* const registry = new WorkThreadRegistry;
    return *registry;
  }

  void remove(const std::shared_ptr<WorkThread::State>& state) {
    const std::lock_guard lock(mutex);
    threads.erase(std::remove(threads.begin(), threads.end(), state), threads.end());
  }

  // Stops all of them; false if that takes too long.
  bool stop() {
    // Held to the end: a thread of another environment must not be freed meanwhile. Work threads
    // never ask for it.
    const std::lock_guard lock(mutex);
    ending = true;
    for (const auto& state : threads) {
      state->shutdown->store(true);
      {
        const std::lock_guard state_lock(state->mutex);
        state->stopping = state->abandoned = true;
      }
      state->ready.notify_one();
    }
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(kEndSeconds);
    for (const auto& state : threads) {
      // Not joined: their owner may be doing that.
      while (state->alive()) {
        if (std::chrono::steady_clock::now() >= deadline) return false;
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
      }
    }
    return true;
  }
};

namespace {

thread_local bool on_work_thread = false;

void end_of_process(int status, void*) {
  if (getpid() != WorkThreadRegistry::get().process) return;  // the child of a fork()
  // exit() was called by work: libgomp does that when it cannot start a thread. The JavaScript
  // threads go on and would meet destroyed objects.
  if (on_work_thread || !WorkThreadRegistry::get().stop()) _exit(status);
}

// exit() runs the destructors of static objects and what on_exit() was given in one list, the
// latest first. Objects that LibTorch makes at their first use come after us in it, and so would
// be destroyed under running threads. But before that list, exit() destroys the thread-local
// objects of the thread that calls it: in time to become the latest.
struct ExitSentinel {
  bool armed = false;
  ~ExitSentinel() {
    if (armed) on_exit(end_of_process, nullptr);
  }
};
thread_local ExitSentinel exit_sentinel;

bool has_room_for_stack() noexcept {
  pthread_attr_t attributes;
  size_t size = 0;
  if (pthread_getattr_default_np(&attributes) != 0) return false;
  pthread_attr_getstacksize(&attributes, &size);
  pthread_attr_destroy(&attributes);
  void* const stack =
      mmap(nullptr, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
  if (stack == MAP_FAILED) return false;
  munmap(stack, size);
  return true;
}

}  // namespace

Error no_thread(const std::system_error& error) noexcept {
  // pthread_create(3) says EAGAIN for either; a stack is what a thread takes of memory.
  if (!has_room_for_stack()) return out_of_memory();
  try {
    return Error(
        error_code::kNative,
        "The system refuses to start a thread: " + error.code().message() +
            ". The usual cause is a limit on processes (ulimit -u, pids.max of a container)");
  } catch (const std::bad_alloc&) {
    return out_of_memory();
  }
}

void stop_work_threads_at_exit() {
  static const bool registered = [] {
    WorkThreadRegistry::get().process = getpid();
    return on_exit(end_of_process, nullptr) == 0;
  }();
  if (!registered) throw Error(error_code::kOutOfMemory, "Out of host memory");
  // The thread-local objects of other threads are destroyed whenever such a thread ends.
  if (syscall(SYS_gettid) == getpid()) exit_sentinel.armed = true;
}

WorkThread::WorkThread(AbortFlag shutdown, std::function<void()> leave)
    : state_(std::make_shared<State>()) {
  state_->shutdown = std::move(shutdown);
  state_->leave = std::move(leave);
  WorkThreadRegistry& registry = WorkThreadRegistry::get();
  const std::lock_guard lock(registry.mutex);
  if (registry.ending) throw Error(error_code::kAborted, "The process is ending");
  registry.threads.push_back(state_);
  try {
    thread_ = std::thread([state = state_] { run(state); });
  } catch (const std::system_error& error) {
    registry.threads.pop_back();
    throw no_thread(error);
  } catch (...) {
    registry.threads.pop_back();
    throw;
  }
}

WorkThread::~WorkThread() {
  {
    const std::lock_guard lock(state_->mutex);
    state_->stopping = true;
  }
  state_->ready.notify_one();
  thread_.join();
  WorkThreadRegistry::get().remove(state_);
}

void WorkThread::post(std::function<void()> work) {
  {
    const std::lock_guard lock(state_->mutex);
    state_->queue.push_back(std::move(work));
  }
  state_->ready.notify_one();
}

void WorkThread::run(const std::shared_ptr<State>& state) {
  state->id = static_cast<pid_t>(syscall(SYS_gettid));
  on_work_thread = exit_sentinel.armed = true;
  for (;;) {
    std::function<void()> work;
    {
      std::unique_lock lock(state->mutex);
      // What ready.wait() does, whose symbol since GCC 12 needs a newer libstdc++ than RHEL 9 has.
      while (!state->stopping && state->queue.empty())
        pthread_cond_wait(state->ready.native_handle(), lock.mutex()->native_handle());
      if (state->abandoned || state->queue.empty()) break;
      work = std::move(state->queue.front());
      state->queue.pop_front();
    }
    work();
  }
  state->leave();
  exit_sentinel.armed = false;
  state->left.store(true, std::memory_order_release);
}

}  // namespace jitflux
