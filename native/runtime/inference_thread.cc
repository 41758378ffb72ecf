#include "runtime/inference_thread.h"

#include <pthread.h>

#include <utility>

#include "runtime/device.h"

namespace jitflux {

InferenceThread::InferenceThread() : thread_([this] { run(); }) {}

InferenceThread::~InferenceThread() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  ready_.notify_one();
  thread_.join();
}

void InferenceThread::post(std::function<void()> work) {
  {
    const std::lock_guard lock(mutex_);
    queue_.push_back(std::move(work));
  }
  ready_.notify_one();
}

void InferenceThread::run() {
  for (;;) {
    std::function<void()> work;
    {
      std::unique_lock lock(mutex_);
      // What ready_.wait() does, whose symbol since GCC 12 needs a newer libstdc++ than RHEL 9 has.
      while (!stopping_ && queue_.empty())
        pthread_cond_wait(ready_.native_handle(), lock.mutex()->native_handle());
      if (queue_.empty()) break;
      work = std::move(queue_.front());
      queue_.pop_front();
    }
    work();
  }
  leave_devices();
}

}  // namespace jitflux
