// forward(): the blocks. One joint residual buffer [B, S, d] with S = T + M, text rows first, so
// that nothing is ever concatenated; a stream is a range of rows.
#include "models/flux/transformer.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/from_blob.h>

#include <algorithm>

#include "base/counters.h"
#include "layers/attention.h"
#include "layers/token_passes.h"
#include "runtime/device.h"

namespace jitflux {

namespace {

// A contiguous range of rows of a [rows, width] buffer.
struct Rows {
  int64_t begin;
  int64_t count;
};

at::Tensor rows_of(const at::Tensor& x, Rows rows) { return x.narrow(0, rows.begin, rows.count); }

}  // namespace

struct FluxTransformer::Pass {
  int64_t images;
  int64_t text_tokens;   // T
  int64_t image_tokens;  // M
  const TokenLists* anchors;
  const int32_t* positions;  // the anchors' lists, where kernels read them; null: all tokens
  bool gather;
  const RopeTable* rope;
  const Conditioning* conditioning;
  const std::vector<int64_t>* steps;  // per image
  at::ScalarType dtype;

  int64_t sequence() const { return text_tokens + image_tokens; }
  int64_t rows() const { return images * sequence(); }
  AttentionShape attention(const FluxConfig& config) const {
    return {images, sequence(), config.heads, config.head_dim};
  }
  Rows text_rows(int64_t image) const { return {image * sequence(), text_tokens}; }
  Rows image_rows(int64_t image) const { return {image * sequence() + text_tokens, image_tokens}; }

  // Text tokens are not rotated.
  Rotation rotation(int64_t image, bool text) const {
    if (text) return {};
    return {rope, positions_of(image)};
  }
  const int32_t* positions_of(int64_t image) const {
    return positions == nullptr || anchors->shared() ? positions : positions + image * image_tokens;
  }

  // Vector `part` of a modulation [S, B, parts, d] for one image.
  const float* modulation(const at::Tensor& of, int64_t image, int64_t part) const {
    return of.const_data_ptr<float>() + (*steps)[image] * of.stride(0) + image * of.stride(1) +
           part * of.stride(2);
  }

  // The norm at the start of block `index` of double blocks, then single blocks, then the final
  // layer, which leaves the text tokens out.
  AdaNorm norm_before(size_t index, int64_t image, bool text) const {
    const auto at_start = [&](const at::Tensor& of) {
      return AdaNorm{modulation(of, image, 0), modulation(of, image, 1)};
    };
    const Conditioning& c = *conditioning;
    const size_t doubles = c.image_stream.size();
    if (index < doubles) return at_start(text ? c.text_stream[index] : c.image_stream[index]);
    if (index < doubles + c.single_stream.size()) return at_start(c.single_stream[index - doubles]);
    if (text) return {};
    return {modulation(c.final_layer, image, 1), modulation(c.final_layer, image, 0)};
  }
};

const RopeTable& FluxTransformer::rope_for(const Grid& grid) {
  if (rope_.grid.rows != grid.rows || rope_.grid.cols != grid.cols) {
    RopeTable table = make_rope_table(grid, config_.rope_axes);
    table.cos = table.cos.to(current_device());
    table.sin = table.sin.to(current_device());
    graphs_.clear();  // which read the old one
    rope_ = std::move(table);
  }
  return rope_;
}

LayerInput FluxTransformer::norm_target(size_t block, const Pass& pass) {
  const int64_t rows = pass.rows();
  // The final layer's weights are not quantised.
  if (!int8() || block == blocks()) {
    return {workspace_.view(Workspace::kNormed, {rows, config_.hidden()}, pass.dtype), {}};
  }
  return {workspace_.view(Workspace::kQuantized, {rows, config_.hidden()}, at::kByte),
          workspace_.view(Workspace::kRowScale, {rows}, at::kFloat)};
}

FluxTransformer::Projections FluxTransformer::projections(const at::Tensor& projected,
                                                          const Pass& pass) {
  const int64_t d = config_.hidden();
  if (on_accelerator()) {
    return {projected.narrow(1, 0, d), projected.narrow(1, d, d), projected.narrow(1, 2 * d, d)};
  }
  const auto buffer = [&](Workspace::Slot slot) {
    return workspace_.view(slot, {pass.rows(), d}, pass.dtype);
  };
  return {buffer(Workspace::kQuery), buffer(Workspace::kKey), buffer(Workspace::kValue)};
}

at::Tensor FluxTransformer::attend(const Projections& of, const Pass& pass) {
  const AttentionShape shape = pass.attention(config_);
  if (on_accelerator()) return device_attention(of.q, of.k, of.v, shape);
  const at::Tensor attended =
      workspace_.view(Workspace::kAttended, {pass.rows(), config_.hidden()}, pass.dtype);
  joint_attention(of.q, of.k, of.v, attended, shape, workspace_);
  return attended;
}

// In: the normed rows of both streams in norm_target(index). Out: those of the next block.
void FluxTransformer::run_double_block(size_t index, const Pass& pass) {
  DoubleBlock& block = double_blocks_[index];
  const int64_t d = config_.hidden();
  const at::Tensor x =
      workspace_.view(Workspace::kResidual, {pass.rows(), d}, pass.dtype);  // [images * S, d]
  // On an accelerator both streams' layers write into one buffer of the joint sequence.
  const bool device = on_accelerator();
  const at::Tensor joint =  // [images * S, 3 d]
      device ? workspace_.view(Workspace::kProjected, {pass.rows(), 3 * d}, pass.dtype)
             : at::Tensor();
  const Projections to = projections(joint, pass);  // q, k, v: [images * S, d]
  const LayerInput h = norm_target(index, pass);
  const LayerInput next = norm_target(index + 1, pass);

  // Calls f(stream, its modulation, image, its rows, whether it is text) for every image.
  const auto each_stream = [&](const auto& f) {
    for (int64_t b = 0; b < pass.images; ++b) {
      f(block.text, pass.conditioning->text_stream[index], b, pass.text_rows(b), true);
      f(block.image, pass.conditioning->image_stream[index], b, pass.image_rows(b), false);
    }
  };

  each_stream([&](Stream& stream, const at::Tensor&, int64_t b, Rows rows, bool text) {
    const LayerInput normed = h.rows(rows.begin, rows.count);
    qk_norm_rope(device ? stream.qkv.into(rows_of(joint, rows), normed) : stream.qkv(normed),
                 stream.q_norm, stream.k_norm, pass.rotation(b, text), rows_of(to.q, rows),
                 rows_of(to.k, rows), rows_of(to.v, rows));
  });
  const at::Tensor attended = attend(to, pass);  // [images * S, d]
  LayerInput attention_out{attended, {}};
  if (int8()) {
    attention_out = h;  // whose rows have been used
    quantize(attended, attention_out);
  }
  each_stream([&](Stream& stream, const at::Tensor& modulation, int64_t b, Rows rows, bool text) {
    const at::Tensor residual = rows_of(x, rows);
    const LayerInput normed = h.rows(rows.begin, rows.count);
    gated_residual(residual, stream.out(attention_out.rows(rows.begin, rows.count)),
                   pass.modulation(modulation, b, 2),
                   AdaNorm{pass.modulation(modulation, b, 3), pass.modulation(modulation, b, 4)},
                   normed);
    LayerInput hidden;
    if (int8()) {
      const int64_t mlp = config_.mlp();
      hidden = {workspace_.view(Workspace::kQuantizedWide, {rows.count, mlp}, at::kByte),
                workspace_.view(Workspace::kRowScaleWide, {rows.count}, at::kFloat)};
      gelu(stream.mlp_in(normed), 0, {}, hidden);
    } else {
      hidden.values = stream.mlp_in(normed, PostOp::kGeluTanh).values;
    }
    gated_residual(residual, stream.mlp_out(hidden), pass.modulation(modulation, b, 5),
                   pass.norm_before(index + 1, b, text), next.rows(rows.begin, rows.count));
  });
}

// As run_double_block; `index` counts the double blocks too.
void FluxTransformer::run_single_block(size_t index, const Pass& pass) {
  const size_t single = index - double_blocks_.size();
  SingleBlock& block = single_blocks_[single];
  const at::Tensor& modulation = pass.conditioning->single_stream[single];
  const int64_t total = pass.rows();
  const int64_t d = config_.hidden();
  const int64_t wide = d + config_.mlp();
  const auto buffer = [&](Workspace::Slot slot, int64_t width) {
    return workspace_.view(slot, {total, width}, pass.dtype);
  };
  const at::Tensor x = buffer(Workspace::kResidual, d);
  const LayerInput next = norm_target(index + 1, pass);

  // [images * S, 3 d + mlp]: q | k | v | mlp
  const LayerOutput projected = block.in(norm_target(index, pass));
  const Projections to = projections(projected.values, pass);  // q, k, v: [images * S, d]
  for (int64_t b = 0; b < pass.images; ++b) {
    for (const bool text : {true, false}) {
      const Rows rows = text ? pass.text_rows(b) : pass.image_rows(b);
      qk_norm_rope(projected.rows(rows.begin, rows.count), block.q_norm, block.k_norm,
                   pass.rotation(b, text), rows_of(to.q, rows), rows_of(to.k, rows),
                   rows_of(to.v, rows));
    }
  }
  // The second layer's input: attention's result beside the activated MLP part, [images * S, d +
  // mlp].
  LayerInput concat;
  if (int8()) {
    concat = {workspace_.view(Workspace::kQuantizedWide, {total, wide}, at::kByte),
              workspace_.view(Workspace::kRowScaleWide, {total}, at::kFloat)};
    gelu(projected, 3 * d, attend(to, pass), concat);
  } else if (on_accelerator()) {
    concat.values = buffer(Workspace::kConcat, wide);
    gelu(projected, 3 * d, attend(to, pass), concat);
  } else {
    // The CPU's kernel writes into columns of a wider buffer, and saves the copy.
    concat.values = buffer(Workspace::kConcat, wide);
    joint_attention(to.q, to.k, to.v, concat.values.narrow(1, 0, d), pass.attention(config_),
                    workspace_);
    gelu(projected, 3 * d, {}, concat);
  }
  const LayerOutput y = block.out(concat);
  for (int64_t b = 0; b < pass.images; ++b) {
    const float* gate = pass.modulation(modulation, b, 2);
    for (const bool text : {true, false}) {
      const Rows rows = text ? pass.text_rows(b) : pass.image_rows(b);
      gated_residual(rows_of(x, rows), y.rows(rows.begin, rows.count), gate,
                     pass.norm_before(index + 1, b, text), next.rows(rows.begin, rows.count));
    }
  }
}

void FluxTransformer::embed(const at::Tensor& latents, const Pass& pass) {
  const int64_t channels = config_.in_channels;
  const at::Tensor x =
      workspace_.view(Workspace::kResidual, {pass.rows(), config_.hidden()}, pass.dtype);
  for (int64_t b = 0; b < pass.images; ++b) {
    rows_of(x, pass.text_rows(b)).copy_(pass.conditioning->text[b]);
    gather_embed(latents.const_data_ptr<float>() + b * latents.size(1) * channels,
                 pass.gather ? pass.positions_of(b) : nullptr, image_in_,
                 rows_of(x, pass.image_rows(b)));
  }
}

void FluxTransformer::run(const at::Tensor& velocity, const Pass& pass, const Job& job) {
  const at::Tensor x =
      workspace_.view(Workspace::kResidual, {pass.rows(), config_.hidden()}, pass.dtype);
  const LayerInput h = norm_target(0, pass);
  for (int64_t b = 0; b < pass.images; ++b) {
    for (const bool text : {true, false}) {
      const Rows rows = text ? pass.text_rows(b) : pass.image_rows(b);
      layer_norm_modulate(rows_of(x, rows), pass.norm_before(0, b, text),
                          h.rows(rows.begin, rows.count));
    }
  }
  const auto progress = [&](size_t done, const char* kind) {
    job.checkpoint();
    weights_->expect_unchanged();
    if (job.progress) job.progress(done, blocks(), kind);
  };
  for (size_t i = 0; i < blocks(); ++i) {
    const bool is_double = i < double_blocks_.size();
    progress(i, is_double ? "double block" : "single block");
    if (streamer_ != nullptr) streamer_->begin(i);
    if (is_double) {
      run_double_block(i, pass);
    } else {
      run_single_block(i, pass);
    }
  }
  progress(blocks(), "final layer");
  const LayerInput normed = norm_target(blocks(), pass);
  for (int64_t b = 0; b < pass.images; ++b) {
    const Rows rows = pass.image_rows(b);
    count(on_accelerator() ? Counter::kLinearDevice : Counter::kLinearPlain);
    velocity[b].copy_(final_out_(rows_of(normed.values, rows)));  // widens to float32
  }
  weights_->expect_unchanged();
}

// A recorded pass reads and writes fixed addresses: the workspace, this modulation of one step,
// these positions, this velocity.
struct FluxTransformer::PassGraph {
  // What a record depends on.
  int64_t images, text_tokens, image_tokens;
  size_t listed;       // positions given
  uint64_t workspace;  // generation

  Conditioning conditioning;  // of one step
  std::vector<int64_t> steps;
  TokenLists anchors;  // of any pass that fits
  at::Tensor positions;
  at::Tensor velocity;
  std::unique_ptr<DeviceGraph> graph;

  bool fits(const PassGraph& other) const {
    return images == other.images && text_tokens == other.text_tokens &&
           image_tokens == other.image_tokens && listed == other.listed;
  }
};

FluxTransformer::FluxTransformer(std::shared_ptr<const FluxWeightReader> weights)
    : weights_(std::move(weights)) {}

FluxTransformer::~FluxTransformer() = default;

bool FluxTransformer::run_graph(const at::Tensor& velocity, const Pass& pass, const Job& job) {
  constexpr size_t kGraphs = 8;  // a run has one per stage
  const std::vector<int64_t>& steps = *pass.steps;
  if (!options_.graphs || streamer_ != nullptr || !on_accelerator() ||
      std::any_of(steps.begin(), steps.end(), [&](int64_t step) { return step != steps[0]; })) {
    return false;
  }
  auto wanted = std::make_unique<PassGraph>();
  wanted->images = pass.images;
  wanted->text_tokens = pass.text_tokens;
  wanted->image_tokens = pass.image_tokens;
  wanted->listed = pass.anchors->tokens.size();
  // What larger passes have moved the buffers of cannot be launched any more.
  std::erase_if(graphs_,
                [&](const auto& known) { return known->workspace != workspace_.generation(); });
  const auto found = std::find_if(graphs_.begin(), graphs_.end(),
                                  [&](const auto& known) { return known->fits(*wanted); });
  if (found == graphs_.end()) {
    // The first time: run it as it is, which also prepares libraries and buffers, and remember.
    run(velocity, pass, job);
    wanted->workspace = workspace_.generation();
    if (graphs_.size() == kGraphs) graphs_.erase(graphs_.begin());
    graphs_.push_back(std::move(wanted));
    return true;
  }
  std::rotate(found, found + 1, graphs_.end());
  PassGraph& known = *graphs_.back();
  const bool record = known.graph == nullptr;
  if (record) {
    known.conditioning = Conditioning(config_, pass.images, 1);
    known.steps.assign(steps.size(), 0);
    known.anchors = *pass.anchors;
    known.velocity = at::empty_like(velocity);
    if (known.listed > 0) {
      known.positions = at::empty({static_cast<int64_t>(known.listed)}, options_here(at::kInt));
    }
  }
  known.conditioning.modulation[0].copy_(pass.conditioning->modulation[steps[0]]);
  if (known.listed > 0) {
    known.positions.copy_(at::from_blob(const_cast<int32_t*>(pass.positions),
                                        {static_cast<int64_t>(known.listed)},
                                        known.positions.options()));
  }
  if (record) {
    Pass fixed = pass;
    fixed.conditioning = &known.conditioning;
    fixed.steps = &known.steps;
    fixed.anchors = &known.anchors;
    fixed.positions = known.listed > 0 ? known.positions.const_data_ptr<int32_t>() : nullptr;
    known.graph =
        current_session()->record([this, fixed, &known] { run(known.velocity, fixed, Job()); });
  }
  count(Counter::kGraphLaunch);
  known.graph->launch();
  at::Tensor result = velocity;
  result.copy_(known.velocity);
  job.checkpoint();
  if (job.progress) job.progress(blocks(), blocks(), "final layer");
  return true;
}

at::Tensor FluxTransformer::forward(const at::Tensor& latents, bool gather,
                                    const TokenLists& anchors, const Grid& grid,
                                    const Conditioning& conditioning,
                                    const std::vector<int64_t>& steps, const Job& job) {
  const int64_t images = latents.size(0);
  const int64_t image_tokens = gather ? anchors.count : latents.size(1);
  const at::Tensor positions = on_current_device(anchors.tokens);
  const Pass pass{images,
                  conditioning.text_tokens,
                  image_tokens,
                  &anchors,
                  anchors.empty() ? nullptr : positions.const_data_ptr<int32_t>(),
                  gather,
                  &rope_for(grid),
                  &conditioning,
                  &steps,
                  options_.dtype};
  // The result leaves the engine; everything else goes back into the arena.
  at::Tensor velocity = at::empty({images, image_tokens, config_.out_channels}, latents.options());
  const MemoryArena::Scope scope(&arena_);
  embed(latents, pass);
  if (!run_graph(velocity, pass, job)) run(velocity, pass, job);
  return velocity;
}

std::optional<TransferStatistics> FluxTransformer::take_transfer_statistics() {
  if (streamer_ == nullptr) return std::nullopt;
  return streamer_->take_statistics();
}

}  // namespace jitflux
