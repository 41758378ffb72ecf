// A thread on which one kind of work of a Node environment runs. One thread, so that operations
// on the same tensor happen in the order they were asked for, and because LibTorch and OpenMP keep
// state per thread (a second host thread would bring a second OpenMP team).
#pragma once

#include <functional>
#include <memory>
#include <system_error>
#include <thread>

#include "base/error.h"
#include "base/job.h"

namespace jitflux {

// kNative, for what std::thread throws when the system has no thread to give; kOutOfMemory where
// there is no memory to say so.
Error no_thread(const std::system_error& error) noexcept;

class WorkThread {
 public:
  // `shutdown` is raised if the process ends while the thread is there: its work polls it.
  // `leave` runs on the thread when it is about to end; neither it nor the work may throw.
  // Throws kNative if the system has no thread to give, kAborted if the process is ending.
  WorkThread(AbortFlag shutdown, std::function<void()> leave);
  ~WorkThread();  // runs what is queued, then joins
  WorkThread(const WorkThread&) = delete;
  WorkThread& operator=(const WorkThread&) = delete;

  // Queues work. May be called from any thread.
  void post(std::function<void()> work);

 private:
  friend struct WorkThreadRegistry;
  struct State;

  static void run(const std::shared_ptr<State>& state);

  std::shared_ptr<State> state_;
  std::thread thread_;
};

// From now on the end of the process stops this library's work threads before any static object is
// destroyed, its own or one of a library that is loaded already: exit() on whichever thread, so
// also process.exit(), process.reallyExit() and the end by an uncaught exception, whatever
// JavaScript's own 'exit' listeners do. What runs is aborted and waited for, what is queued does
// not start. Work that takes more than kEndSeconds to stop is not waited for any longer: the
// process then ends at once, with the same exit status. The child of a fork() has none of these
// threads and does not wait. To be called when the library is initialised, once per JavaScript
// thread.
void stop_work_threads_at_exit();

inline constexpr int kEndSeconds = 5;

}  // namespace jitflux
