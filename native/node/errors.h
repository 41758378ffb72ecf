// Exceptions to JavaScript errors. Nothing but Napi::Error ever leaves a function called by Node.
#pragma once

#include <optional>
#include <string>

#include "base/error.h"
#include "base/log.h"
#include "node/napi_setup.h"

namespace jitflux::addon {

// The exception being handled, as our own type; where there is no memory to tell, as that.
Error current_exception() noexcept;

// Tells what a library's own exceptions mean: rethrows the one being handled, and returns nothing
// for one that it does not know.
using ExceptionTranslator = std::optional<Error> (*)();

// current_exception() asks it from now on. Before anything can throw.
void install_exception_translator(ExceptionTranslator translator);

// What an exception says, without the lines of a stack trace below.
std::string first_line(const char* text);

// An Error object with `code` and `details`.
Napi::Error to_js(Napi::Env env, const Error& error);

// Where messages of this environment go.
LogSink& log_sink(Napi::Env env);

// Runs what makes a library's exports. False if that failed; there is a JavaScript exception then.
template <typename SetUp>
bool set_up_exports(Napi::Env env, const SetUp& set_up) noexcept {
  try {
    try {
      out_of_memory();
      set_up();
      return true;
    } catch (const Napi::Error&) {
      throw;
    } catch (...) {
      throw to_js(env, current_exception());
    }
  } catch (const Napi::Error& error) {
    error.ThrowAsJavaScriptException();
  }
  return false;
}

// Wraps a native function so that everything it throws becomes a JavaScript exception.
template <Napi::Value (*F)(const Napi::CallbackInfo&)>
Napi::Value guarded(const Napi::CallbackInfo& info) {
  try {
    const LogScope scope(log_sink(info.Env()));
    return F(info);
  } catch (const Napi::Error&) {
    throw;
  } catch (...) {
    throw to_js(info.Env(), current_exception());
  }
}

}  // namespace jitflux::addon
