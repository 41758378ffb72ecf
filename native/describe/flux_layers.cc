#include "describe/flux_layers.h"

namespace jitflux {

FluxStreamModules flux_image_stream(int64_t block) {
  const std::string root = "transformer_blocks." + std::to_string(block) + ".";
  const std::string attn = root + "attn.";
  return {.modulation = root + "norm1.linear",
          .qkv = {attn + "to_q", attn + "to_k", attn + "to_v"},
          .out = attn + "to_out.0",
          .mlp_in = root + "ff.net.0.proj",
          .mlp_out = root + "ff.net.2",
          .norm_q = attn + "norm_q",
          .norm_k = attn + "norm_k"};
}

FluxStreamModules flux_text_stream(int64_t block) {
  const std::string root = "transformer_blocks." + std::to_string(block) + ".";
  const std::string attn = root + "attn.";
  return {.modulation = root + "norm1_context.linear",
          .qkv = {attn + "add_q_proj", attn + "add_k_proj", attn + "add_v_proj"},
          .out = attn + "to_add_out",
          .mlp_in = root + "ff_context.net.0.proj",
          .mlp_out = root + "ff_context.net.2",
          .norm_q = attn + "norm_added_q",
          .norm_k = attn + "norm_added_k"};
}

FluxSingleModules flux_single_block(int64_t block) {
  const std::string root = "single_transformer_blocks." + std::to_string(block) + ".";
  const std::string attn = root + "attn.";
  return {.modulation = root + "norm.linear",
          .in = {attn + "to_q", attn + "to_k", attn + "to_v", root + "proj_mlp"},
          .out = root + "proj_out",
          .norm_q = attn + "norm_q",
          .norm_k = attn + "norm_k"};
}

}  // namespace jitflux
