// The thread on which all tensor work of one Node environment runs. One thread, so that operations
// on the same tensor happen in the order they were asked for, and because LibTorch and OpenMP keep
// state per thread (a second host thread would bring a second OpenMP team).
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>

namespace jitflux {

class InferenceThread {
 public:
  InferenceThread();
  ~InferenceThread();  // runs what is queued, then joins
  InferenceThread(const InferenceThread&) = delete;
  InferenceThread& operator=(const InferenceThread&) = delete;

  // Queues work; it must not throw. May be called from any thread.
  void post(std::function<void()> work);

 private:
  void run();

  std::mutex mutex_;
  std::condition_variable ready_;
  std::deque<std::function<void()>> queue_;
  bool stopping_ = false;
  std::thread thread_;  // last: it uses the members above
};

}  // namespace jitflux
