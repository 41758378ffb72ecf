// A thread on which one kind of work of a Node environment runs. One thread, so that operations
// on the same tensor happen in the order they were asked for, and because LibTorch and OpenMP keep
// state per thread (a second host thread would bring a second OpenMP team).
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>

namespace jitflux {

class WorkThread {
 public:
  // `leave` runs on the thread when it is about to end; neither it nor the work may throw.
  explicit WorkThread(std::function<void()> leave);
  ~WorkThread();  // runs what is queued, then joins
  WorkThread(const WorkThread&) = delete;
  WorkThread& operator=(const WorkThread&) = delete;

  // Queues work. May be called from any thread.
  void post(std::function<void()> work);

 private:
  void run();

  std::function<void()> leave_;
  std::mutex mutex_;
  std::condition_variable ready_;
  std::deque<std::function<void()>> queue_;
  bool stopping_ = false;
  std::thread thread_;  // last: it uses the members above
};

}  // namespace jitflux
