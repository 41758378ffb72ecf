// Loading: parameters of the file, by diffusers name, into packed tensors of the compute type.
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>

#include "flux/transformer.h"
#include "flux/weight_tensors.h"

namespace jitflux {

namespace {

class Loader {
 public:
  Loader(const FluxParameters& parameters, at::ScalarType dtype, const Job& job)
      : parameters_(parameters), dtype_(dtype), job_(job) {
    for (const std::string& name : parameters.names()) {
      for (const WeightTensor& piece : parameters.pieces(name)) total_ += piece.nbytes();
    }
  }

  // The named parameters one below the other, converted and copied out of the file's mapping.
  at::Tensor rows(const std::vector<std::string>& names, at::ScalarType dtype) {
    std::vector<at::Tensor> views;
    uint64_t bytes = 0;
    int64_t height = 0;
    for (const std::string& name : names) {
      for (const WeightTensor& piece : parameters_.pieces(name)) {
        views.push_back(weight_view(piece));
        bytes += piece.nbytes();
        height += piece.shape[0];
      }
    }
    std::vector<int64_t> shape = views[0].sizes().vec();
    shape[0] = height;
    at::Tensor out = at::empty(shape, dtype);
    int64_t row = 0;
    for (const at::Tensor& view : views) {
      out.narrow(0, row, view.size(0)).copy_(view);
      row += view.size(0);
    }
    loaded_ += bytes;
    job_.checkpoint();
    if (job_.progress) job_.progress(loaded_, total_, names[0]);
    return out;
  }

  Linear linear(const std::vector<std::string>& modules) {
    std::vector<std::string> weights;
    std::vector<std::string> biases;
    for (const std::string& module : modules) {
      weights.push_back(module + ".weight");
      biases.push_back(module + ".bias");
    }
    return {rows(weights, dtype_), rows(biases, dtype_)};
  }

  Linear linear(const std::string& module) { return linear(std::vector<std::string>{module}); }

  // RMSNorm weights stay in float32, in which the kernels compute.
  at::Tensor norm(const std::string& module) { return rows({module + ".weight"}, at::kFloat); }

 private:
  const FluxParameters& parameters_;
  at::ScalarType dtype_;
  const Job& job_;
  uint64_t loaded_ = 0;
  uint64_t total_ = 0;
};

}  // namespace

std::shared_ptr<FluxTransformer> FluxTransformer::load(const FluxParameters& parameters,
                                                       const TransformerOptions& options,
                                                       const Job& job) {
  const std::shared_ptr<FluxTransformer> model(new FluxTransformer());
  model->config_ = parameters.config();
  model->options_ = options;
  Loader from(parameters, options.dtype, job);

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
    Stream image{from.linear(block + "norm1.linear"),
                 from.linear({attn + "to_q", attn + "to_k", attn + "to_v"}),
                 from.linear(attn + "to_out.0"),
                 from.linear(block + "ff.net.0.proj"),
                 from.linear(block + "ff.net.2"),
                 from.norm(attn + "norm_q"),
                 from.norm(attn + "norm_k")};
    Stream text{from.linear(block + "norm1_context.linear"),
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
        {from.linear(block + "norm.linear"),
         from.linear({attn + "to_q", attn + "to_k", attn + "to_v", block + "proj_mlp"}),
         from.linear(block + "proj_out"), from.norm(attn + "norm_q"), from.norm(attn + "norm_k")});
  }
  model->final_modulation_ = from.linear("norm_out.linear");
  model->final_out_ = from.linear("proj_out");
  return model;
}

}  // namespace jitflux
