// Messages for whoever operates the program, from whichever thread has something to say.
#pragma once

#include <c10/util/Exception.h>

#include <string>

namespace jitflux {

// From the gravest to the most talkative.
enum class LogLevel : int { kError, kWarn, kInfo, kDebug };

class LogSink {
 public:
  // May be called from any thread.
  virtual void write(LogLevel level, const std::string& message) noexcept = 0;

 protected:
  ~LogSink() = default;
};

// While it lives, what is logged on this thread goes to the sink, and so do LibTorch's warnings.
class LogScope {
 public:
  explicit LogScope(LogSink& sink);
  ~LogScope();
  LogScope(const LogScope&) = delete;
  LogScope& operator=(const LogScope&) = delete;

 private:
  LogSink* outer_;
  c10::WarningUtils::WarningHandlerGuard warnings_;
};

// Without a scope on this thread the message is dropped.
void log(LogLevel level, const std::string& message) noexcept;

}  // namespace jitflux
