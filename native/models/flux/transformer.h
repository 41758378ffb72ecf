// The FLUX transformer (diffusers' FluxTransformer2DModel) over any subset of a grid's tokens.
//
// Everything that depends only on sigma, guidance and the prompt is computed once by condition(),
// for all steps: the text tokens' embedding and every block's adaLN modulation. forward() then
// touches the M given tokens and nothing of the full grid's size.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/job.h"
#include "base/token_grid.h"
#include "describe/flux_config.h"
#include "describe/flux_parameters.h"
#include "layers/latent_embedder.h"
#include "layers/linear.h"
#include "layers/rope.h"
#include "layers/workspace.h"
#include "residency/block_streamer.h"
#include "residency/flux_weight_reader.h"
#include "residency/packed_linear.h"
#include "runtime/memory_arena.h"

namespace jitflux {

struct TransformerOptions {
  // Weights and activations: kFloat, kBFloat16 or, on accelerators, kHalf.
  at::ScalarType dtype = at::kFloat;
  // Round timestep*1000 and guidance*1000 to dtype, as diffusers and BFL do.
  bool round_time = true;
  // Keep the adaLN modulation weights (27 % of FLUX.1-dev's parameters) between calls of
  // condition(). false: each is read from the file when condition() needs it and dropped right
  // after.
  bool keep_modulation = true;
  // Of the blocks' linear layers; embedders, modulation and the final layer stay as they are.
  WeightForm weights = WeightForm::kPacked;
  // On accelerators, unless weights are streamed: record a pass of every shape when it comes up for
  // the second time, and launch the record from then on. Bits are the same.
  bool graphs = false;
};

// A block's modulation projection: read by condition() only.
struct ModulationLinear {
  std::string module;
  std::optional<Linear> resident;
};

// What condition() prepared for one batch of prompts. Shapes: B images, S steps, T text tokens,
// d hidden width. Modulation is kept in float32, of all blocks side by side, so that a step's can
// be copied as one; the tensors by block are views of it.
struct Conditioning {
  int64_t images = 0;
  int64_t steps = 0;
  int64_t text_tokens = 0;
  at::Tensor text;                        // [B, T, d] in the model's dtype
  at::Tensor modulation;                  // [S, B * (12 or 3 per block + 2) * d]
  std::vector<at::Tensor> image_stream;   // per double block [S, B, 6, d]
  std::vector<at::Tensor> text_stream;    // per double block [S, B, 6, d]
  std::vector<at::Tensor> single_stream;  // per single block [S, B, 3, d]
  at::Tensor final_layer;                 // [S, B, 2, d]: scale, shift
  const void* owner = nullptr;            // the transformer that made it

  Conditioning() = default;
  // Allocates the modulation, on current_device().
  Conditioning(const FluxConfig& config, int64_t batch, int64_t sigmas);
};

class FluxTransformer {
 public:
  ~FluxTransformer();

  // Checks everything and reads little: the blocks' weights are prepared when they are first used;
  // only embedders, norms and (with keep_modulation) modulation of another type are converted here.
  // On accelerators everything is read: into the device's memory or, streamed, page-locked memory.
  // Polls the job and reports bytes through its progress.
  static std::shared_ptr<FluxTransformer> load(std::shared_ptr<const FluxParameters> parameters,
                                               const TransformerOptions& options, const Job& job);

  const FluxConfig& config() const { return config_; }
  const TransformerOptions& options() const { return options_; }

  // Prepares the blocks' weights that no pass has used yet: what the first pass does otherwise. On
  // accelerators loading has done it. Reports blocks; polls the job between them. What has been
  // prepared when it is aborted stays. Runs on the inference thread only.
  void prepare(const Job& job);

  // Of streamed weights: since the last call. The session must have been synchronised.
  std::optional<TransferStatistics> take_transfer_statistics();

  // prompt: [B, T, text_dim], pooled: [B, pooled_dim], any float dtype, on current_device();
  // guidance: B values, ignored by models without a guidance embedder; sigmas: S values in [0, 1].
  std::shared_ptr<const Conditioning> condition(const at::Tensor& prompt, const at::Tensor& pooled,
                                                const std::vector<double>& guidance,
                                                const std::vector<double>& sigmas, const Job& job);

  // Velocity [B, M, out_channels] float32, on the device of the latents, of M tokens at the anchors
  // (one list for all images or one per image; empty: all tokens of the grid in order). `latents`:
  // these tokens [B, M, in_channels] float32 or, with `gather`, all tokens of the grid, of which
  // the anchors are taken. `steps` holds each image's index into the sigmas of the conditioning.
  // Runs on the inference thread only.
  at::Tensor forward(const at::Tensor& latents, bool gather, const TokenLists& anchors,
                     const Grid& grid, const Conditioning& conditioning,
                     const std::vector<int64_t>& steps, const Job& job);

 private:
  // One stream (text or image) of a double block.
  struct Stream {
    ModulationLinear
        modulation;        // [6d, d]: shift, scale, gate (attention), shift, scale, gate (MLP)
    PackedLinear qkv;      // [3d, d]
    PackedLinear out;      // [d, d]
    PackedLinear mlp_in;   // [mlp, d]
    PackedLinear mlp_out;  // [d, mlp]
    at::Tensor q_norm;     // [head_dim] float32
    at::Tensor k_norm;
  };
  struct DoubleBlock {
    Stream text;
    Stream image;
  };
  struct SingleBlock {
    ModulationLinear modulation;  // [3d, d]: shift, scale, gate
    PackedLinear in;              // [3d + mlp, d]: q, k, v, mlp
    PackedLinear out;             // [d, d + mlp]
    at::Tensor q_norm;
    at::Tensor k_norm;
  };
  struct Embedder {
    Linear first;
    Linear second;
  };
  // One forward call's sizes, positions and modulation lookup.
  struct Pass;
  struct PassGraph;

  explicit FluxTransformer(std::shared_ptr<const FluxWeightReader> weights);
  at::Tensor embed_conditioning(const at::Tensor& pooled, const std::vector<double>& guidance,
                                const std::vector<double>& sigmas) const;
  const RopeTable& rope_for(const Grid& grid);
  std::vector<std::vector<PackedLinear*>> layers_by_block();
  size_t blocks() const { return double_blocks_.size() + single_blocks_.size(); }
  bool int8() const { return options_.weights == WeightForm::kInt8; }
  // Where the norm before a block, or before the final layer, is written.
  LayerInput norm_target(size_t block, const Pass& pass);
  // Where q, k and v go, [rows, d] each: on accelerators into the columns of `projected`, the layer
  // output that they come from, of all rows; else into buffers of their own.
  struct Projections {
    at::Tensor q, k, v;
  };
  Projections projections(const at::Tensor& projected, const Pass& pass);
  // Joint attention of all images' tokens: [rows, d], in the workspace or of its own.
  at::Tensor attend(const Projections& of, const Pass& pass);
  void run_double_block(size_t index, const Pass& pass);
  void run_single_block(size_t index, const Pass& pass);
  // Text and image tokens into the residual buffer.
  void embed(const at::Tensor& latents, const Pass& pass);
  // Everything from there to the velocity.
  void run(const at::Tensor& velocity, const Pass& pass, const Job& job);
  // The same, recorded or about to be; false if this pass cannot be.
  bool run_graph(const at::Tensor& velocity, const Pass& pass, const Job& job);

  std::shared_ptr<const FluxWeightReader> weights_;
  FluxConfig config_;
  TransformerOptions options_;
  Embedder time_;
  Embedder guidance_;
  Embedder pooled_;
  Linear text_in_;
  LatentEmbedder image_in_;
  std::vector<DoubleBlock> double_blocks_;
  std::vector<SingleBlock> single_blocks_;
  ModulationLinear final_modulation_;  // [2d, d]: scale, shift
  Linear final_out_;
  RopeTable rope_;  // of the grid used last
  Workspace workspace_;
  MemoryArena arena_;                               // of the passes' intermediate results
  std::unique_ptr<BlockStreamer> streamer_;         // of kStreamed weights
  std::vector<std::unique_ptr<PassGraph>> graphs_;  // most recently used last
};

}  // namespace jitflux
