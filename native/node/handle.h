// JavaScript objects that own a share of a native object. Type-tagged, so that a foreign object is
// refused instead of being read as ours; garbage-collected, and released early by dispose.
#pragma once

#include <memory>
#include <string>
#include <utility>

#include "base/error.h"
#include "node/napi_setup.h"

namespace jitflux::addon {

// A type's tag in this build: an object of another version of the package, which may be loaded
// beside this one and lay its objects out differently, is a foreign object. FNV-1a of what it was
// built from.
constexpr napi_type_tag build_tag(uint64_t lower, uint64_t upper) {
  uint64_t hash = 0xcbf29ce484222325;
  for (const char* at = JIT_FLUX_VERSION "/" JIT_FLUX_LIBTORCH_VERSION "/" JIT_FLUX_HEADERS;
       *at != 0; ++at) {
    hash = (hash ^ static_cast<unsigned char>(*at)) * 0x100000001b3;
  }
  return {lower ^ hash, upper};
}

// Specialised per handle type: `tag` (random, unique) and `name` (for messages).
template <typename T>
struct HandleType;

template <typename T>
struct Box {
  std::shared_ptr<T> pointer;
  int64_t external_bytes = 0;  // reported to the garbage collector
};

// `external_bytes`: host memory that lives and dies with the handle.
template <typename T>
Napi::Object make_handle(Napi::Env env, std::shared_ptr<T> pointer, int64_t external_bytes = 0) {
  Napi::Object object = Napi::Object::New(env);
  auto box = std::make_unique<Box<T>>(Box<T>{std::move(pointer)});
  const napi_finalize finalize = [](napi_env finalizer_env, void* data, void*) {
    auto* owned = static_cast<Box<T>*>(data);
    if (owned->external_bytes != 0) {
      int64_t total = 0;
      napi_adjust_external_memory(finalizer_env, -owned->external_bytes, &total);
    }
    delete owned;
  };
  const auto check = [](napi_status status) {
    if (status != napi_ok) throw Error(error_code::kNative, "Could not create a native handle");
  };
  check(napi_wrap(env, object, box.get(), finalize, nullptr, nullptr));
  // The object frees it from now on, even if the next call fails: a worker thread may be terminated
  // between any two calls.
  Box<T>* owned = box.release();
  check(napi_type_tag_object(env, object, &HandleType<T>::tag));
  int64_t total = 0;
  if (external_bytes != 0 && napi_adjust_external_memory(env, external_bytes, &total) == napi_ok) {
    owned->external_bytes = external_bytes;
  }
  return object;
}

template <typename T>
Box<T>* find_box(const Napi::Value& value) {
  if (!value.IsObject()) return nullptr;
  bool ours = false;
  if (napi_check_object_type_tag(value.Env(), value, &HandleType<T>::tag, &ours) != napi_ok ||
      !ours) {
    return nullptr;
  }
  void* data = nullptr;
  if (napi_unwrap(value.Env(), value, &data) != napi_ok) return nullptr;
  return static_cast<Box<T>*>(data);
}

// Throws kInvalidArgument for foreign objects, kDisposed after dispose. `name`: of the argument or
// field, for the message.
template <typename T>
std::shared_ptr<T> get_handle(const Napi::Value& value, const char* name = nullptr) {
  Box<T>* box = find_box<T>(value);
  if (box == nullptr) {
    const std::string expected = std::string("a ") + HandleType<T>::name + " handle";
    if (name == nullptr) throw Error(error_code::kInvalidArgument, "Expected " + expected);
    throw Error(error_code::kInvalidArgument, "Expected " + expected + " for \"" + name + '"',
                {{"option", std::string(name)}, {"expected", expected}});
  }
  if (!box->pointer) {
    throw Error(error_code::kDisposed,
                std::string("The ") + HandleType<T>::name + " was used after dispose()");
  }
  return box->pointer;
}

// Drops the handle's share; idempotent. Work in flight keeps its own. False if not of this type.
template <typename T>
bool release_handle(const Napi::Value& value) {
  Box<T>* box = find_box<T>(value);
  if (box == nullptr) return false;
  box->pointer.reset();
  if (box->external_bytes != 0) {
    int64_t total = 0;
    napi_adjust_external_memory(value.Env(), -box->external_bytes, &total);
    box->external_bytes = 0;
  }
  return true;
}

}  // namespace jitflux::addon
