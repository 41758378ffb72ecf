#include "node/metadata.h"

namespace jitflux::addon {

Napi::Array metadata_to_js(Napi::Env env, const WeightFile& file) {
  Napi::Array entries = Napi::Array::New(env, file.metadata().size());
  uint32_t next = 0;
  for (const auto& [name, text] : file.metadata()) {
    Napi::Array entry = Napi::Array::New(env, 2);
    entry.Set(0u, Napi::String::New(env, name));
    entry.Set(1u, Napi::String::New(env, text));
    entries.Set(next++, entry);
  }
  return entries;
}

}  // namespace jitflux::addon
