// How the modules of a FLUX transformer's blocks (diffusers' names) make up the layers that the
// engine packs, quantises and streams: modules whose outputs stand side by side are one layer.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace jitflux {

using Modules = std::vector<std::string>;

// One stream, image or text, of a double block.
struct FluxStreamModules {
  std::string modulation;
  Modules qkv;
  std::string out;
  std::string mlp_in;
  std::string mlp_out;
  std::string norm_q;
  std::string norm_k;

  std::vector<Modules> layers() const { return {qkv, {out}, {mlp_in}, {mlp_out}}; }
};

struct FluxSingleModules {
  std::string modulation;
  Modules in;  // q, k, v and the MLP's input
  std::string out;
  std::string norm_q;
  std::string norm_k;

  std::vector<Modules> layers() const { return {in, {out}}; }
};

FluxStreamModules flux_image_stream(int64_t block);
FluxStreamModules flux_text_stream(int64_t block);
FluxSingleModules flux_single_block(int64_t block);
inline constexpr const char* kFluxFinalModulation = "norm_out.linear";

// Form of the weights of these layers.
enum class WeightForm {
  kMapped,  // as the file holds them: shared between processes, dropped under memory pressure
  kPacked,  // reordered into oneDNN's blocks, if it takes the type: memory of this process
  kInt8,    // quantised per output channel; 8-bit products
  // On an accelerator:
  kResident,  // in device memory
  kStreamed   // in host memory, copied to the device block by block (residency/block_streamer.h)
};

// Blocks in device memory while weights are streamed.
inline constexpr int64_t kStreamedSlots = 3;

}  // namespace jitflux
