// JavaScript's way to the transformer: load, condition, forward.
#include "models/flux/transformer.h"

#include <utility>

#include "addon/arguments.h"
#include "addon/environment.h"
#include "addon/errors.h"
#include "addon/registration.h"
#include "describe/flux_parameters.h"
#include "jit/euler_step.h"
#include "layers/finite.h"
#include "node/architectures.h"

namespace jitflux::addon {

namespace {

// BlockWeights of src/types.ts, where a device takes them.
WeightForm parse_block_weights(const Fields& options, bool accelerator) {
  if (accelerator) {
    return options.choice<WeightForm>(
        "blockWeights", {{"resident", WeightForm::kResident}, {"streamed", WeightForm::kStreamed}});
  }
  return options.choice<WeightForm>("blockWeights", {{"mapped", WeightForm::kMapped},
                                                     {"packed", WeightForm::kPacked},
                                                     {"int8", WeightForm::kInt8}});
}

// (path, { device, dtype, blockWeights, cudaGraphs, timeEmbedding, keepModulation, threads, verify,
// mapWeights, ropeAxes? }, job)
Napi::Value load(const Napi::CallbackInfo& info) {
  const std::string path = parse_string(info[0], "path");
  const TensorFields options(info[1]);
  TransformerOptions model_options;
  const Placement where = options.placement();
  model_options.dtype = options.compute_dtype(where.device);
  model_options.round_time =
      options.choice<bool>("timeEmbedding", {{"reference", true}, {"exact", false}});
  model_options.keep_modulation = options.boolean("keepModulation");
  model_options.weights = parse_block_weights(options, where.device >= 0);
  model_options.graphs = options.boolean("cudaGraphs");
  const bool verify = options.boolean("verify");
  const bool map = options.boolean("mapWeights");
  const auto axes = options.axes("ropeAxes");
  return Environment::of(info.Env())
      .run(
          info.Env(), info[2],
          [path, verify, map, axes, model_options, where](const Job& job) {
            auto file = WeightFile::open(path, {.verify = verify, .map = map, .job = job});
            auto parameters = std::make_shared<const FluxParameters>(
                FluxParameters::resolve(std::move(file), axes));
            auto entry = std::make_shared<TransformerEntry>(TransformerEntry{
                FluxTransformer::load(std::move(parameters), model_options, job), where});
            return Environment::Settle([entry](Napi::Env env) -> napi_value {
              Napi::Object result = Napi::Object::New(env);
              result.Set("handle", make_handle(env, entry));
              result.Set("config", config_to_js(env, entry->model->config()));
              return result;
            });
          },
          where);
}

// (transformer, job)
Napi::Value prepare(const Napi::CallbackInfo& info) {
  const auto entry = get_handle<TransformerEntry>(info[0]);
  return Environment::of(info.Env())
      .run(
          info.Env(), info[1],
          [entry](const Job& job) {
            entry->model->prepare(job);
            return Environment::Settle([](Napi::Env env) -> napi_value { return env.Undefined(); });
          },
          entry->where);
}

// ({ transformer, prompt, pooled, guidance: Float64Array, sigmas: Float64Array }, job)
Napi::Value condition(const Napi::CallbackInfo& info) {
  const TensorFields o(info[0]);
  const auto entry = o.handle<TransformerEntry>("transformer");
  const FluxConfig& config = entry->model->config();
  const at::Tensor prompt = o.tensor("prompt");
  const at::Tensor pooled = o.tensor("pooled");
  if (prompt.dim() != 3 || prompt.size(2) != config.text_dim || !prompt.is_floating_point() ||
      prompt.numel() == 0) {
    throw Error(error_code::kInvalidTensor,
                "Expected a floating point tensor of shape [images, text tokens, " +
                    std::to_string(config.text_dim) + "] for \"prompt\" but received " +
                    describe_tensor(prompt));
  }
  if (pooled.dim() != 2 || pooled.size(0) != prompt.size(0) ||
      pooled.size(1) != config.pooled_dim || !pooled.is_floating_point()) {
    throw Error(error_code::kInvalidTensor,
                "Expected a floating point tensor of shape [" + std::to_string(prompt.size(0)) +
                    ", " + std::to_string(config.pooled_dim) + "] for \"pooled\" but received " +
                    describe_tensor(pooled));
  }
  expect_device(prompt, "prompt", entry->where.device);
  expect_device(pooled, "pooled", entry->where.device);
  std::vector<double> guidance = o.numbers("guidance");
  // Of no meaning, and of no use, to a model that has no input for it.
  if (config.guidance) guidance = per_image(std::move(guidance), "guidance", prompt.size(0));
  std::vector<double> sigmas = o.numbers("sigmas");
  if (sigmas.empty()) invalid("sigmas", "at least one value", "none");
  for (const double sigma : sigmas) {
    if (sigma < 0.0 || sigma > 1.0) invalid("sigmas", "values from 0 to 1", std::to_string(sigma));
  }
  return Environment::of(info.Env())
      .run(
          info.Env(), info[1],
          [entry, prompt, pooled, guidance = std::move(guidance),
           sigmas = std::move(sigmas)](const Job& job) {
            expect_finite(prompt, "encoded prompt");
            expect_finite(pooled, "pooled prompt");
            auto result = entry->model->condition(prompt, pooled, guidance, sigmas, job);
            return Environment::Settle([result = std::move(result)](Napi::Env env) -> napi_value {
              return make_handle(env, result);
            });
          },
          entry->where);
}

// What forward and advance have in common: which model, at which tokens, at which noise level.
struct ForwardArguments {
  std::shared_ptr<TransformerEntry> entry;
  std::shared_ptr<const Conditioning> conditioning;
  at::Tensor latents;
  bool gather;  // the latents are the whole grid's, of which the anchors are taken
  TokenLists anchors;
  Grid grid;
  std::vector<int64_t> steps;

  at::Tensor forward(const Job& job) const {
    return entry->model->forward(latents, gather && !anchors.empty(), anchors, grid, *conditioning,
                                 steps, job);
  }
};

// { transformer, conditioning, anchors?, grid, step: Int32Array }, one step for all images or one
// per image, and one of
//   tokens: of the anchors, [B, M, C]; `anchors` shared or one list per image by its length
//   latents: of the whole grid, [B, N, C], of which the anchors are taken; perImage
ForwardArguments parse_forward(const TensorFields& o) {
  ForwardArguments a;
  a.entry = o.handle<TransformerEntry>("transformer");
  a.conditioning = o.handle<const Conditioning>("conditioning");
  if (a.conditioning->owner != a.entry->model.get()) {
    throw Error(error_code::kInvalidArgument,
                "The conditioning was made by another transformer than the one it is used with");
  }
  a.gather = !o.get("latents").IsUndefined();
  if (a.gather && !o.get("tokens").IsUndefined()) {
    invalid("tokens", "either tokens or latents", "both");
  }
  const char* name = a.gather ? "latents" : "tokens";
  a.latents = o.tokens(name);
  expect_device(a.latents, name, a.entry->where.device);
  a.grid = o.grid();
  const int64_t images = a.latents.size(0);
  const bool all = o.get("anchors").IsUndefined();
  expect_tokens(a.latents, name, a.conditioning->images,
                a.gather || all ? a.grid.tokens() : a.latents.size(1),
                a.entry->model->config().in_channels);
  if (!all) {
    a.anchors = a.gather ? o.token_lists("anchors", a.latents)
                         : o.token_lists("anchors", images, a.latents.size(1), a.grid.tokens());
  }
  for (const int32_t step : per_image(o.integers("step"), "step", images)) {
    if (step < 0 || step >= a.conditioning->steps) {
      invalid("step", "an integer from 0 to " + std::to_string(a.conditioning->steps - 1),
              std::to_string(step));
    }
    a.steps.push_back(step);
  }
  return a;
}

// (parse_forward's, job)
Napi::Value forward(const Napi::CallbackInfo& info) {
  const ForwardArguments a = parse_forward(TensorFields(info[0]));
  return Environment::of(info.Env())
      .run(
          info.Env(), info[1], [a](const Job& job) { return settle_tensor(a.forward(job)); },
          a.entry->where);
}

// (parse_forward's with latents, and dSigma, job). Forward, lift and Euler update.
Napi::Value advance(const Napi::CallbackInfo& info) {
  const TensorFields o(info[0]);
  const ForwardArguments a = parse_forward(o);
  const double d_sigma = o.number("dSigma");
  const FluxConfig& config = a.entry->model->config();
  if (!a.gather || config.out_channels != config.in_channels) {
    throw Error(error_code::kInvalidArgument,
                "Only latents of a whole grid, with as many channels as the velocity, can advance");
  }
  Environment& environment = Environment::of(info.Env());
  jit::LifterCache& lifters = environment.lifters(a.entry->where.device);
  return environment.run(
      info.Env(), info[1],
      [a, d_sigma, &lifters](const Job& job) {
        at::Tensor latents = a.latents;
        const at::Tensor full =
            jit::euler_step(latents, a.forward(job), a.anchors, a.grid, d_sigma, lifters);
        expect_finite(latents, "latents");
        return settle_tensor(full);
      },
      a.entry->where);
}

// (transformer, job) -> { bytes, copyMilliseconds, stallMilliseconds } since the last call, or
// undefined
Napi::Value transfer_statistics(const Napi::CallbackInfo& info) {
  const auto entry = get_handle<TransformerEntry>(info[0]);
  return Environment::of(info.Env())
      .run(
          info.Env(), info[1],
          [entry](const Job&) {
            const auto statistics = entry->model->take_transfer_statistics();
            return Environment::Settle([statistics](Napi::Env env) -> napi_value {
              if (!statistics) return env.Undefined();
              Napi::Object result = Napi::Object::New(env);
              result.Set("bytes", Napi::Number::New(env, static_cast<double>(statistics->bytes)));
              result.Set("copyMilliseconds", Napi::Number::New(env, statistics->copy_milliseconds));
              result.Set("stallMilliseconds",
                         Napi::Number::New(env, statistics->stall_milliseconds));
              return result;
            });
          },
          entry->where);
}

}  // namespace

void register_transformer(Napi::Env env, Napi::Object exports) {
  exports.Set("loadTransformer", Napi::Function::New<guarded<load>>(env));
  exports.Set("prepareTransformer", Napi::Function::New<guarded<prepare>>(env));
  exports.Set("condition", Napi::Function::New<guarded<condition>>(env));
  exports.Set("forward", Napi::Function::New<guarded<forward>>(env));
  exports.Set("advance", Napi::Function::New<guarded<advance>>(env));
  exports.Set("transferStatistics", Napi::Function::New<guarded<transfer_statistics>>(env));
}

}  // namespace jitflux::addon
