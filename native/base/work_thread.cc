#include "base/work_thread.h"

#include <pthread.h>

#include <utility>

namespace jitflux {

WorkThread::WorkThread(std::function<void()> leave)
    : leave_(std::move(leave)), thread_([this] { run(); }) {}

WorkThread::~WorkThread() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  ready_.notify_one();
  thread_.join();
}

void WorkThread::post(std::function<void()> work) {
  {
    const std::lock_guard lock(mutex_);
    queue_.push_back(std::move(work));
  }
  ready_.notify_one();
}

void WorkThread::run() {
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
  leave_();
}

}  // namespace jitflux
