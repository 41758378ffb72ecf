// JavaScript's way to the transformer: load, condition, forward.
#include "models/flux/transformer.h"

#include <utility>

#include "addon/arguments.h"
#include "addon/environment.h"
#include "addon/errors.h"
#include "addon/registration.h"
#include "describe/flux_parameters.h"
#include "jit/euler_step.h"
#include "node/architectures.h"

namespace jitflux::addon {

namespace {

WeightForm parse_weight_form(const Napi::Value& value, bool accelerator) {
  const std::string name = parse_string(value, "weights");
  if (accelerator) {
    if (name == "resident") return WeightForm::kResident;
    if (name == "streamed") return WeightForm::kStreamed;
  } else {
    if (name == "mapped") return WeightForm::kMapped;
    if (name == "packed") return WeightForm::kPacked;
    if (name == "int8") return WeightForm::kInt8;
  }
  throw Error(error_code::kInvalidArgument,
              std::string("Expected ") +
                  (accelerator ? "'resident' or 'streamed'" : "'mapped', 'packed' or 'int8'") +
                  " for \"weights\" but received '" + name + "'");
}

// (path, { device, dtype, weights, graphs, roundTime, keepModulation, threads, verify, ropeAxes? },
// job)
Napi::Value load(const Napi::CallbackInfo& info) {
  const std::string path = parse_string(info[0], "path");
  const auto options = info[1].As<Napi::Object>();
  TransformerOptions model_options;
  const Placement where = parse_placement(options);
  model_options.dtype = parse_compute_dtype(options.Get("dtype"), where.device);
  model_options.round_time = options.Get("roundTime").ToBoolean();
  model_options.keep_modulation = options.Get("keepModulation").ToBoolean();
  model_options.weights = parse_weight_form(options.Get("weights"), where.device >= 0);
  model_options.graphs = options.Get("graphs").ToBoolean();
  const OpenOptions open{options.Get("verify").ToBoolean()};
  const auto axes = parse_axes(options.Get("ropeAxes"));
  return Environment::of(info.Env())
      .run(
          info.Env(), info[2],
          [path, open, axes, model_options, where](const Job& job) {
            auto parameters = std::make_shared<const FluxParameters>(
                FluxParameters::resolve(WeightFile::open(path, open), axes));
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

// (transformer, prompt, pooled, guidance: Float64Array, sigmas: Float64Array, job)
Napi::Value condition(const Napi::CallbackInfo& info) {
  const auto entry = get_handle<TransformerEntry>(info[0]);
  const FluxConfig& config = entry->model->config();
  const at::Tensor prompt = *get_handle<at::Tensor>(info[1]);
  const at::Tensor pooled = *get_handle<at::Tensor>(info[2]);
  if (prompt.dim() != 3 || prompt.size(2) != config.text_dim || !prompt.is_floating_point()) {
    throw Error(error_code::kInvalidTensor,
                "Expected a floating point tensor of shape [images, text tokens, " +
                    std::to_string(config.text_dim) + "] for \"prompt\"");
  }
  if (pooled.dim() != 2 || pooled.size(0) != prompt.size(0) ||
      pooled.size(1) != config.pooled_dim || !pooled.is_floating_point()) {
    throw Error(error_code::kInvalidTensor,
                "Expected a floating point tensor of shape [" + std::to_string(prompt.size(0)) +
                    ", " + std::to_string(config.pooled_dim) + "] for \"pooled\"");
  }
  expect_device(prompt, "prompt", entry->where.device);
  expect_device(pooled, "pooled", entry->where.device);
  std::vector<double> guidance = parse_numbers(info[3], "guidance");
  if (config.guidance && static_cast<int64_t>(guidance.size()) != prompt.size(0)) {
    throw Error(error_code::kInvalidArgument,
                "Expected one guidance per image (" + std::to_string(prompt.size(0)) +
                    ") for \"guidance\" but received " + std::to_string(guidance.size()));
  }
  std::vector<double> sigmas = parse_numbers(info[4], "sigmas");
  for (const double sigma : sigmas) {
    if (sigma < 0.0 || sigma > 1.0) {
      throw Error(
          error_code::kInvalidArgument,
          "Expected values from 0 to 1 for \"sigmas\" but received " + std::to_string(sigma));
    }
  }
  if (sigmas.empty()) {
    throw Error(error_code::kInvalidArgument, "Expected at least one value for \"sigmas\"");
  }
  return Environment::of(info.Env())
      .run(
          info.Env(), info[5],
          [entry, prompt, pooled, guidance = std::move(guidance),
           sigmas = std::move(sigmas)](const Job& job) {
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

// The first nine arguments: transformer, conditioning, latents, gather, anchors | undefined,
// anchors per image, rows, cols, steps: Int32Array.
ForwardArguments parse_forward(const Napi::CallbackInfo& info) {
  ForwardArguments a;
  a.entry = get_handle<TransformerEntry>(info[0]);
  a.conditioning = get_handle<const Conditioning>(info[1]);
  if (a.conditioning->owner != a.entry->model.get()) {
    throw Error(error_code::kInvalidArgument,
                "The conditioning was made by another transformer than the one it is used with");
  }
  a.gather = info[3].ToBoolean();
  const char* name = a.gather ? "latents" : "tokens";
  a.latents = parse_tokens(info[2], name);
  expect_device(a.latents, name, a.entry->where.device);
  a.grid = parse_grid(info[6], info[7]);
  const int64_t images = a.latents.size(0);
  expect_tokens(a.latents, name, a.conditioning->images,
                a.gather || info[4].IsUndefined() ? a.grid.tokens() : a.latents.size(1),
                a.entry->model->config().in_channels);
  if (!info[4].IsUndefined()) {
    a.anchors = a.gather ? parse_flagged_lists(info[4], "anchors", a.latents, info[5].ToBoolean())
                         : parse_token_lists(info[4], "anchors", images, a.latents.size(1),
                                             a.grid.tokens());
  }
  if (!info[8].IsTypedArray() ||
      info[8].As<Napi::TypedArray>().TypedArrayType() != napi_int32_array) {
    throw Error(error_code::kInvalidArgument, "Expected an integer or one per image for \"step\"");
  }
  const auto list = info[8].As<Napi::Int32Array>();
  a.steps.assign(list.Data(), list.Data() + list.ElementLength());
  if (a.steps.size() == 1) a.steps.resize(static_cast<size_t>(images), a.steps[0]);
  for (const int64_t step : a.steps) {
    if (step < 0 || step >= a.conditioning->steps ||
        a.steps.size() != static_cast<size_t>(images)) {
      throw Error(error_code::kInvalidArgument,
                  "Expected one step from 0 to " + std::to_string(a.conditioning->steps - 1) +
                      " (or one per image) for \"step\" but received " + std::to_string(step));
    }
  }
  return a;
}

// (parse_forward's, job)
Napi::Value forward(const Napi::CallbackInfo& info) {
  const ForwardArguments a = parse_forward(info);
  return Environment::of(info.Env())
      .run(
          info.Env(), info[9], [a](const Job& job) { return settle_tensor(a.forward(job)); },
          a.entry->where);
}

// (parse_forward's with latents of the whole grid, dSigma, job). Forward, lift and Euler update.
Napi::Value advance(const Napi::CallbackInfo& info) {
  const ForwardArguments a = parse_forward(info);
  const double d_sigma = parse_number(info[9], "dSigma");
  const FluxConfig& config = a.entry->model->config();
  if (!a.gather || config.out_channels != config.in_channels) {
    throw Error(error_code::kInvalidArgument,
                "Only latents of a whole grid, with as many channels as the velocity, can advance");
  }
  Environment& environment = Environment::of(info.Env());
  jit::LifterCache& lifters = environment.lifters(a.entry->where.device);
  return environment.run(
      info.Env(), info[10],
      [a, d_sigma, &lifters](const Job& job) {
        at::Tensor latents = a.latents;
        return settle_tensor(
            jit::euler_step(latents, a.forward(job), a.anchors, a.grid, d_sigma, lifters));
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
  exports.Set("condition", Napi::Function::New<guarded<condition>>(env));
  exports.Set("forward", Napi::Function::New<guarded<forward>>(env));
  exports.Set("advance", Napi::Function::New<guarded<advance>>(env));
  exports.Set("transferStatistics", Napi::Function::New<guarded<transfer_statistics>>(env));
}

}  // namespace jitflux::addon
