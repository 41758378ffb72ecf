// Loading: which parameters of the file, by diffusers name, make up which layer. Blocks read theirs
// when they are first used (packed_linear.h).
#include "describe/flux_layers.h"
#include "models/flux/transformer.h"

namespace jitflux {

namespace {

// Reads weights, or prepares to, while polling the job and reporting bytes.
class Loader {
 public:
  // arena: for what layers are made from
  Loader(std::shared_ptr<const FluxWeightReader> reader, WeightForm form, const MemoryArena& arena,
         const Job& job)
      : reader_(std::move(reader)), form_(form), arena_(arena), job_(job) {
    for (const std::string& name : reader_->parameters().names()) total_ += reader_->bytes(name);
  }

  Linear linear(const std::string& module) {
    Linear result = reader_->linear(module);
    advance_module(module);
    return result;
  }

  PackedLinear packed(const std::vector<std::string>& modules) {
    PackedLinear result{reader_, modules, form_};
    // Streamed ones are read once all layers are known.
    if (form_ == WeightForm::kStreamed) return result;
    const MemoryArena::Scope scope(&arena_);
    if (form_ == WeightForm::kResident || !reader_->may_map()) result.prepare();
    for (const std::string& module : modules) advance_module(module);
    return result;
  }
  PackedLinear packed(const std::string& module) {
    return packed(std::vector<std::string>{module});
  }

  at::Tensor norm(const std::string& module) {
    at::Tensor result = reader_->norm(module);
    advance(module + ".weight");
    return result;
  }

  void advance_module(const std::string& module) {
    advance(module + ".weight");
    advance(module + ".bias");
  }

  ModulationLinear modulation(const std::string& module, bool keep) {
    ModulationLinear result{module, std::nullopt};
    if (keep) {
      result.resident = linear(module);
    } else {
      advance_module(module);
    }
    return result;
  }

 private:
  void advance(const std::string& name) {
    loaded_ += reader_->bytes(name);
    job_.checkpoint();
    if (job_.progress) job_.progress(loaded_, total_, name);
  }

  std::shared_ptr<const FluxWeightReader> reader_;
  WeightForm form_;
  const MemoryArena& arena_;
  const Job& job_;
  uint64_t loaded_ = 0;
  uint64_t total_ = 0;
};

// What the kernels take. No published model comes near.
void check_kernel_limits(const FluxConfig& config, const TransformerOptions& options) {
  if (on_accelerator() &&
      (config.hidden() > kernels::kDeviceNormMaxWidth ||
       config.head_dim > kernels::kDeviceMaxHeadDim || config.head_dim % 2 != 0)) {
    throw Error(error_code::kWeightsMismatch,
                "Expected a width of at most " + std::to_string(kernels::kDeviceNormMaxWidth) +
                    " and heads of an even size of at most " +
                    std::to_string(kernels::kDeviceMaxHeadDim) + " on a GPU but received " +
                    std::to_string(config.hidden()) + " and " + std::to_string(config.head_dim));
  }
  if (config.in_channels > kernels::kEmbedMaxChannels) {
    throw Error(error_code::kWeightsMismatch,
                "Expected at most " + std::to_string(kernels::kEmbedMaxChannels) +
                    " latent channels but received " + std::to_string(config.in_channels));
  }
  if (options.weights == WeightForm::kInt8 && config.head_dim > kernels::kRescaledMaxHeadDim) {
    throw Error(error_code::kWeightsMismatch,
                "Expected heads of at most " + std::to_string(kernels::kRescaledMaxHeadDim) +
                    " with int8 weights but received " + std::to_string(config.head_dim));
  }
}

}  // namespace

std::shared_ptr<FluxTransformer> FluxTransformer::load(
    std::shared_ptr<const FluxParameters> parameters, const TransformerOptions& options,
    const Job& job) {
  const FluxConfig config = parameters->config();
  check_kernel_limits(config, options);
  const auto reader =
      std::make_shared<const FluxWeightReader>(std::move(parameters), options.dtype);
  const std::shared_ptr<FluxTransformer> model(new FluxTransformer(reader));
  model->config_ = config;
  model->options_ = options;
  Loader from(reader, options.weights, model->arena_, job);
  const bool keep = options.keep_modulation;

  const auto embedder = [&](const std::string& name) {
    const std::string module = "time_text_embed." + name;
    return Embedder{from.linear(module + ".linear_1"), from.linear(module + ".linear_2")};
  };
  model->time_ = embedder("timestep_embedder");
  if (model->config_.guidance) model->guidance_ = embedder("guidance_embedder");
  model->pooled_ = embedder("text_embedder");
  model->text_in_ = from.linear("context_embedder");
  model->image_in_ = LatentEmbedder::from(from.linear("x_embedder"));

  const auto stream = [&](const FluxStreamModules& modules) {
    return Stream{from.modulation(modules.modulation, keep),
                  from.packed(modules.qkv),
                  from.packed(modules.out),
                  from.packed(modules.mlp_in),
                  from.packed(modules.mlp_out),
                  from.norm(modules.norm_q),
                  from.norm(modules.norm_k)};
  };
  for (int64_t i = 0; i < model->config_.double_blocks; ++i) {
    Stream image = stream(flux_image_stream(i));
    Stream text = stream(flux_text_stream(i));
    model->double_blocks_.push_back({std::move(text), std::move(image)});
  }
  for (int64_t i = 0; i < model->config_.single_blocks; ++i) {
    const FluxSingleModules modules = flux_single_block(i);
    model->single_blocks_.push_back({from.modulation(modules.modulation, keep),
                                     from.packed(modules.in), from.packed(modules.out),
                                     from.norm(modules.norm_q), from.norm(modules.norm_k)});
  }
  model->final_modulation_ = from.modulation(kFluxFinalModulation, keep);
  model->final_out_ = from.linear("proj_out");
  if (options.weights == WeightForm::kStreamed) {
    model->streamer_ = std::make_unique<BlockStreamer>(
        *reader, model->layers_by_block(),
        [&](const std::string& module) { from.advance_module(module); });
  }
  reader->release_staging();
  const bool all_read = on_accelerator() || !reader->may_map();
  if (all_read && keep) reader->close();
  return model;
}

std::vector<std::vector<PackedLinear*>> FluxTransformer::layers_by_block() {
  std::vector<std::vector<PackedLinear*>> blocks;
  for (DoubleBlock& block : double_blocks_) {
    auto& layers = blocks.emplace_back();
    for (Stream* stream : {&block.text, &block.image}) {
      for (PackedLinear* layer : {&stream->qkv, &stream->out, &stream->mlp_in, &stream->mlp_out}) {
        layers.push_back(layer);
      }
    }
  }
  for (SingleBlock& block : single_blocks_) blocks.push_back({&block.in, &block.out});
  return blocks;
}

void FluxTransformer::prepare(const Job& job) {
  const auto layers = layers_by_block();
  // What layers are made from goes through the memory that passes use afterwards.
  const MemoryArena::Scope scope(&arena_);
  for (size_t i = 0; i < layers.size(); ++i) {
    job.checkpoint();
    weights_->expect_unchanged();
    if (streamer_ == nullptr) {
      for (PackedLinear* layer : layers[i]) layer->prepare_if_needed();
    }
    if (job.progress) job.progress(i + 1, layers.size(), "block");
  }
  weights_->expect_unchanged();
}

}  // namespace jitflux
