// The handle types that JavaScript sees.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <vector>

#include "addon/environment.h"
#include "models/autoencoder/autoencoder.h"
#include "models/clip/clip_text_encoder.h"
#include "models/flux/transformer.h"
#include "models/t5/t5_encoder.h"
#include "node/handle.h"
#include "runtime/script_module.h"

namespace jitflux::addon {

// A model and where its work runs.
template <typename Model>
struct ModelEntry {
  std::shared_ptr<Model> model;
  Placement where;
};
using TransformerEntry = ModelEntry<FluxTransformer>;

template <>
struct HandleType<at::Tensor> {
  static constexpr napi_type_tag tag = build_tag(0x7d1d9c5c0a3f4e61, 0x8f2a6b3d91c4e507);
  static constexpr const char* name = "tensor";
};
template <>
struct HandleType<TransformerEntry> {
  static constexpr napi_type_tag tag = build_tag(0xc25f7e1849ab4d3a, 0xb7e46c0d28f1935e);
  static constexpr const char* name = "transformer";
};
template <>
struct HandleType<const Conditioning> {
  static constexpr napi_type_tag tag = build_tag(0x5e90b3a7d61c4f28, 0xa1c83f5de7240b96);
  static constexpr const char* name = "conditioning";
};
template <>
struct HandleType<ScriptModule> {
  static constexpr napi_type_tag tag = build_tag(0x38c1f6e9b2074ad5, 0x86e5a90c7d3f1b42);
  static constexpr const char* name = "TorchScript module";
};

template <>
struct HandleType<ModelEntry<ClipTextEncoder>> {
  static constexpr napi_type_tag tag = build_tag(0x64a1f08e9d3b47c2, 0x9c57e2b10f86ad34);
  static constexpr const char* name = "CLIP text encoder";
};
template <>
struct HandleType<ModelEntry<T5Encoder>> {
  static constexpr napi_type_tag tag = build_tag(0xe83b5d7206cf41a9, 0xb20d94f6718ec35a);
  static constexpr const char* name = "T5 encoder";
};
template <>
struct HandleType<ModelEntry<Autoencoder>> {
  static constexpr napi_type_tag tag = build_tag(0x2f97c8140be64d53, 0x8ad16f3be590c274);
  static constexpr const char* name = "autoencoder";
};

Napi::Object tensor_handle(Napi::Env env, const at::Tensor& tensor);

// For Environment::run: settles a promise with a new handle to the tensor.
std::function<napi_value(Napi::Env)> settle_tensor(at::Tensor tensor);
// With a Float32Array of a float32 tensor's values, contiguous on the host.
std::function<napi_value(Napi::Env)> settle_floats(at::Tensor host);
// With a Float64Array.
std::function<napi_value(Napi::Env)> settle_doubles(std::vector<double> values);
// With an Int32Array.
std::function<napi_value(Napi::Env)> settle_integers(std::vector<int32_t> values);

}  // namespace jitflux::addon
