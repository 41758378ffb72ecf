#include "node/errors.h"

#include <atomic>
#include <new>
#include <stdexcept>
#include <string>
#include <system_error>

namespace jitflux::addon {

namespace {

std::atomic<ExceptionTranslator> translate = nullptr;

Napi::Value to_js(Napi::Env env, const DetailValue& value) {
  if (const auto* number = std::get_if<double>(&value)) return Napi::Number::New(env, *number);
  if (const auto* text = std::get_if<std::string>(&value)) return Napi::String::New(env, *text);
  const auto& list = std::get<std::vector<std::string>>(value);
  Napi::Array array = Napi::Array::New(env, list.size());
  for (size_t i = 0; i < list.size(); ++i) {
    array.Set(static_cast<uint32_t>(i), Napi::String::New(env, list[i]));
  }
  return array;
}

// May throw std::bad_alloc in its turn.
Error translated_exception() {
  try {
    throw;
  } catch (const Error& error) {
    return error;
  } catch (...) {
    if (const ExceptionTranslator known = translate) {
      if (const std::optional<Error> error = known()) return *error;
    }
  }
  try {
    throw;
  } catch (const std::bad_alloc&) {
    return out_of_memory();
  } catch (const std::length_error&) {  // of a container, of more elements than there are addresses
    return Error(error_code::kOutOfMemory, "Out of host memory (more than could be addressed)");
  } catch (const std::system_error& error) {
    // EAGAIN is what a thread that cannot have its stack fails with.
    const bool memory = error.code() == std::errc::not_enough_memory ||
                        error.code() == std::errc::resource_unavailable_try_again;
    return Error(memory ? error_code::kOutOfMemory : error_code::kNative, first_line(error.what()));
  } catch (const std::exception& error) {
    return Error(error_code::kNative, first_line(error.what()));
  } catch (...) {
    return Error(error_code::kNative, "Unknown native failure");
  }
}

}  // namespace

std::string first_line(const char* text) {
  const std::string message(text);
  return message.substr(0, message.find('\n'));
}

void install_exception_translator(ExceptionTranslator translator) { translate = translator; }

Error current_exception() noexcept {
  try {
    return translated_exception();
  } catch (...) {  // while it made the message
    return out_of_memory();
  }
}

Napi::Error to_js(Napi::Env env, const Error& error) {
  Napi::Error result = Napi::Error::New(env, error.what());
  result.Set("code", Napi::String::New(env, error.code()));
  if (!error.details().empty()) {
    Napi::Object details = Napi::Object::New(env);
    for (const auto& [key, value] : error.details()) details.Set(key, to_js(env, value));
    result.Set("details", details);
  }
  return result;
}

}  // namespace jitflux::addon
