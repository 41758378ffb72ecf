// The one exception type of the engine. The addon layer turns it into a JavaScript error with the
// same code and details; the codes are those of src/errors.ts.
#pragma once

#include <cstdint>
#include <exception>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace jitflux {

using DetailValue = std::variant<double, std::string, std::vector<std::string>>;
using Details = std::vector<std::pair<std::string, DetailValue>>;

class Error : public std::exception {
 public:
  Error(std::string code, std::string message, Details details = {})
      : code_(std::move(code)), message_(std::move(message)), details_(std::move(details)) {}

  const char* what() const noexcept override { return message_.c_str(); }
  const std::string& code() const noexcept { return code_; }
  const Details& details() const noexcept { return details_; }

 private:
  std::string code_;
  std::string message_;
  Details details_;
};

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
inline constexpr const char* kOutOfMemory = "ERR_JITFLUX_OUT_OF_MEMORY";
inline constexpr const char* kNative = "ERR_JITFLUX_NATIVE";
}  // namespace error_code

}  // namespace jitflux
