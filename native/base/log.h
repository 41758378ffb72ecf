// Messages for whoever operates the program, from whichever thread has something to say.
#pragma once

#include <string_view>

namespace jitflux {

// From the gravest to the most talkative.
enum class LogLevel : int { kError, kWarn, kInfo, kDebug };

class LogSink {
 public:
  // May be called from any thread.
  virtual void write(LogLevel level, std::string_view message) noexcept = 0;

 protected:
  ~LogSink() = default;
};

// How another library's warnings are sent to log() on the current thread.
struct WarningRedirect {
  void* (*begin)();             // from now on; returns what `end` takes
  void (*end)(void* previous);  // as before
};

// Every LogScope applies it from now on. To be called before there are scopes. The core installs
// LibTorch's (runtime/torch_log.h); without LibTorch there is none.
void install_warning_redirect(const WarningRedirect& redirect);

// While it lives, what is logged on this thread goes to the sink, and so do redirected warnings.
class LogScope {
 public:
  explicit LogScope(LogSink& sink);
  ~LogScope();
  LogScope(const LogScope&) = delete;
  LogScope& operator=(const LogScope&) = delete;

 private:
  LogSink* outer_;
  void* outer_warnings_;
};

// Without a scope on this thread the message is dropped.
void log(LogLevel level, std::string_view message) noexcept;

}  // namespace jitflux
