// What our threads share, without Node and LibTorch: queues of work, abort flags, logs, counters
// and gauges, used by several threads at once. A program for ThreadSanitizer (scripts/test-tsan.mjs
// --native), which sees all of it here: everything is instrumented. Exit code 0 and no report is
// the result.
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include "base/counters.h"
#include "base/job.h"
#include "base/log.h"
#include "base/memory_use.h"
#include "base/work_thread.h"

namespace {

using namespace jitflux;

void check(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "thread_tests: %s\n", what);
  std::_Exit(1);
}

// As the Node environment's: any thread may write.
class CountingSink final : public LogSink {
 public:
  void write(LogLevel level, std::string_view message) noexcept override {
    if (level != LogLevel::kError && !message.empty()) lines_.fetch_add(1);
  }
  int lines() const { return lines_.load(); }

 private:
  std::atomic<int> lines_ = 0;
};

// With the flag that the end of the process raises, where work threads take one.
template <typename Thread>
void start(std::optional<Thread>& thread, const AbortFlag& shutdown, std::function<void()> leave) {
  if constexpr (std::is_constructible_v<Thread, AbortFlag, std::function<void()>>) {
    thread.emplace(shutdown, std::move(leave));
  } else {
    thread.emplace(std::move(leave));
  }
}

// One environment: a thread of work, a flag for its end, and jobs as NodeEnvironment makes them.
class Environment {
 public:
  Environment() {
    start(thread_, shutdown_, [this] { has_left_ = true; });
  }
  ~Environment() {
    shutdown_->store(true);
    thread_.reset();
    check(has_left_, "a work thread has not left");
    check(done_ + aborted_ == posted_, "work was lost");
  }

  // May be called from any thread.
  void post(AbortFlag abort) {
    posted_.fetch_add(1);
    thread_->post([this, job = Job{std::move(abort), shutdown_, {}}]() mutable {
      job.progress = [this](uint64_t done, uint64_t total, const std::string& what) {
        if (done == total && !what.empty()) reported_.fetch_add(1);
      };
      const LogScope scope(sink_);
      try {
        for (uint64_t step = 1; step <= kSteps; ++step) {
          job.checkpoint();
          results_.push_back(step);  // only this thread's
          tensor_memory.add(64);
          count(Counter::kAttention);
          log(LogLevel::kDebug, "a step");
          tensor_memory.subtract(64);
          job.progress(step, kSteps, "steps");
        }
        done_.fetch_add(1);
      } catch (const Error&) {
        aborted_.fetch_add(1);
      }
    });
  }

  int reported() const { return reported_; }
  int lines() const { return sink_.lines(); }

 private:
  static constexpr uint64_t kSteps = 5;

  CountingSink sink_;
  AbortFlag shutdown_ = std::make_shared<std::atomic<bool>>(false);
  std::vector<uint64_t> results_;
  std::atomic<int> posted_ = 0;
  std::atomic<int> done_ = 0;
  std::atomic<int> aborted_ = 0;
  std::atomic<int> reported_ = 0;
  bool has_left_ = false;  // written by the work thread, read once it has been joined
  std::optional<WorkThread> thread_;
};

// Four JavaScript threads, each with two environments that come and go while others post to them.
void run_environments() {
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([] {
      for (int round = 0; round < 20; ++round) {
        Environment first;
        Environment second;
        auto abort = std::make_shared<std::atomic<bool>>(false);
        std::thread poster([&] {
          for (int i = 0; i < 25; ++i) second.post(abort);
        });
        for (int i = 0; i < 25; ++i) first.post(i % 2 == 0 ? abort : nullptr);
        for (int i = 0; i < 25; ++i) second.post(nullptr);
        abort->store(true);
        poster.join();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  check(tensor_memory.bytes() == 0, "a gauge does not come back to zero");
  check(tensor_memory.peak() >= 64, "a gauge has no peak");
}

void install_redirect() {
  static int scopes = 0;
  install_warning_redirect({[]() -> void* { return &scopes; }, [](void*) {}});
}

}  // namespace

int main(int argc, char** argv) {
  install_redirect();
  stop_work_threads_at_exit();
  run_environments();
  if (argc > 1 && std::string(argv[1]) == "exit") {
    // The end of the process in the middle of it, with environments that nobody ends.
    auto* const left = new std::vector<std::unique_ptr<Environment>>;
    for (int i = 0; i < 3; ++i) left->push_back(std::make_unique<Environment>());
    for (int i = 0; i < 3000; ++i) (*left)[static_cast<size_t>(i % 3)]->post(nullptr);
    std::exit(0);
  }
  return 0;
}
