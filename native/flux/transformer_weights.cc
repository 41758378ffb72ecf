// Loading: parameters of the file, by diffusers name, into packed tensors of the compute type.
#include "flux/transformer.h"

namespace jitflux {

namespace {

// Reads weights while polling the job and reporting bytes.
class Loader {
 public:
  Loader(const FluxWeightReader& reader, const Job& job) : reader_(reader), job_(job) {
    for (const std::string& name : reader.parameters().names()) total_ += reader.bytes(name);
  }

  Linear linear(const std::vector<std::string>& modules) {
    Linear result = reader_.linear(modules);
    for (const std::string& module : modules) {
      advance(module + ".weight");
      advance(module + ".bias");
    }
    return result;
  }
  Linear linear(const std::string& module) { return linear(std::vector<std::string>{module}); }

  at::Tensor norm(const std::string& module) {
    at::Tensor result = reader_.norm(module);
    advance(module + ".weight");
    return result;
  }

  ModulationLinear modulation(const std::string& module, bool keep) {
    ModulationLinear result{module, std::nullopt};
    if (keep) {
      result.resident = linear(module);
    } else {
      advance(module + ".weight");
      advance(module + ".bias");
    }
    return result;
  }

 private:
  void advance(const std::string& name) {
    loaded_ += reader_.bytes(name);
    job_.checkpoint();
    if (job_.progress) job_.progress(loaded_, total_, name);
  }

  const FluxWeightReader& reader_;
  const Job& job_;
  uint64_t loaded_ = 0;
  uint64_t total_ = 0;
};

}  // namespace

std::shared_ptr<FluxTransformer> FluxTransformer::load(
    std::shared_ptr<const FluxParameters> parameters, const TransformerOptions& options,
    const Job& job) {
  const FluxConfig config = parameters->config();
  const std::shared_ptr<FluxTransformer> model(
      new FluxTransformer(FluxWeightReader(std::move(parameters), options.dtype)));
  model->config_ = config;
  model->options_ = options;
  Loader from(model->weights_, job);
  const bool keep = options.keep_modulation;

  const auto embedder = [&](const std::string& name) {
    const std::string module = "time_text_embed." + name;
    return Embedder{from.linear(module + ".linear_1"), from.linear(module + ".linear_2")};
  };
  model->time_ = embedder("timestep_embedder");
  if (model->config_.guidance) model->guidance_ = embedder("guidance_embedder");
  model->pooled_ = embedder("text_embedder");
  model->text_in_ = from.linear("context_embedder");
  model->image_in_ = from.linear("x_embedder");

  for (int64_t i = 0; i < model->config_.double_blocks; ++i) {
    const std::string block = "transformer_blocks." + std::to_string(i) + ".";
    const std::string attn = block + "attn.";
    Stream image{from.modulation(block + "norm1.linear", keep),
                 from.linear({attn + "to_q", attn + "to_k", attn + "to_v"}),
                 from.linear(attn + "to_out.0"),
                 from.linear(block + "ff.net.0.proj"),
                 from.linear(block + "ff.net.2"),
                 from.norm(attn + "norm_q"),
                 from.norm(attn + "norm_k")};
    Stream text{from.modulation(block + "norm1_context.linear", keep),
                from.linear({attn + "add_q_proj", attn + "add_k_proj", attn + "add_v_proj"}),
                from.linear(attn + "to_add_out"),
                from.linear(block + "ff_context.net.0.proj"),
                from.linear(block + "ff_context.net.2"),
                from.norm(attn + "norm_added_q"),
                from.norm(attn + "norm_added_k")};
    model->double_blocks_.push_back({std::move(text), std::move(image)});
  }
  for (int64_t i = 0; i < model->config_.single_blocks; ++i) {
    const std::string block = "single_transformer_blocks." + std::to_string(i) + ".";
    const std::string attn = block + "attn.";
    model->single_blocks_.push_back(
        {from.modulation(block + "norm.linear", keep),
         from.linear({attn + "to_q", attn + "to_k", attn + "to_v", block + "proj_mlp"}),
         from.linear(block + "proj_out"), from.norm(attn + "norm_q"), from.norm(attn + "norm_k")});
  }
  model->final_modulation_ = from.modulation("norm_out.linear", keep);
  model->final_out_ = from.linear("proj_out");
  return model;
}

}  // namespace jitflux
