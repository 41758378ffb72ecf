// The one exception type of the engine. The addon layer turns it into a JavaScript error with the
// same code and details; the codes are those of src/errors.ts.
#pragma once

#include <cstdint>
#include <exception>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

namespace jitflux {

using DetailValue = std::variant<double, std::string, std::vector<std::string>>;
using Details = std::vector<std::pair<std::string, DetailValue>>;

// Copies share what it says, so that handing one on needs no memory: there may be none.
class Error : public std::exception {
 public:
  Error(std::string code, std::string message, Details details = {})
      : contents_(std::make_shared<const Contents>(
            Contents{std::move(code), std::move(message), std::move(details)})) {}
  // No move, which would leave an error that says nothing.
  Error(const Error&) noexcept = default;
  Error& operator=(const Error&) noexcept = default;

  const char* what() const noexcept override { return contents_->message.c_str(); }
  const std::string& code() const noexcept { return contents_->code; }
  const Details& details() const noexcept { return contents_->details; }

 private:
  struct Contents {
    std::string code;
    std::string message;
    Details details;
  };

  std::shared_ptr<const Contents> contents_;
};
static_assert(std::is_nothrow_copy_constructible_v<Error> &&
              std::is_nothrow_copy_assignable_v<Error>);

namespace error_code {
inline constexpr const char* kInvalidArgument = "ERR_JITFLUX_INVALID_ARGUMENT";
inline constexpr const char* kInvalidAnchors = "ERR_JITFLUX_INVALID_ANCHORS";
inline constexpr const char* kInvalidTensor = "ERR_JITFLUX_INVALID_TENSOR";
inline constexpr const char* kDisposed = "ERR_JITFLUX_DISPOSED";
inline constexpr const char* kAborted = "ERR_JITFLUX_ABORTED";
inline constexpr const char* kFileNotFound = "ERR_JITFLUX_FILE_NOT_FOUND";
inline constexpr const char* kUnsupportedFormat = "ERR_JITFLUX_UNSUPPORTED_FORMAT";
inline constexpr const char* kCorruptFile = "ERR_JITFLUX_CORRUPT_FILE";
inline constexpr const char* kUnsafeFile = "ERR_JITFLUX_UNSAFE_FILE";
inline constexpr const char* kWeightsMismatch = "ERR_JITFLUX_WEIGHTS_MISMATCH";
inline constexpr const char* kWeightsChanged = "ERR_JITFLUX_WEIGHTS_CHANGED";
inline constexpr const char* kDeviceUnavailable = "ERR_JITFLUX_DEVICE_UNAVAILABLE";
inline constexpr const char* kWriteFailed = "ERR_JITFLUX_WRITE_FAILED";
inline constexpr const char* kNotFinite = "ERR_JITFLUX_NOT_FINITE";
inline constexpr const char* kOutOfMemory = "ERR_JITFLUX_OUT_OF_MEMORY";
inline constexpr const char* kNative = "ERR_JITFLUX_NATIVE";
}  // namespace error_code

// For where there is no memory to say anything better. Made by its first call, which throws
// std::bad_alloc where that fails: a library makes that call when it is initialised.
inline const Error& out_of_memory() {
  // Never destroyed: threads may fail while static objects are.
  static const auto* const error = new Error(error_code::kOutOfMemory, "Out of host memory");
  return *error;
}

}  // namespace jitflux
