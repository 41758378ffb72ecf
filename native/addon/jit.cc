// JavaScript's way to the JiT operators (JitOperators of src/types.ts).
#include <algorithm>

#include "addon/arguments.h"
#include "addon/environment.h"
#include "addon/errors.h"
#include "addon/registration.h"
#include "jit/euler_step.h"
#include "jit/gather.h"
#include "jit/importance.h"
#include "jit/lifter.h"
#include "jit/micro_flow.h"
#include "jit/token_choice.h"

namespace jitflux::addon {

namespace {

bool per_image(const Napi::Value& value) {
  return value.IsBoolean() && value.As<Napi::Boolean>().Value();
}

// (latents, anchors, perImage, job)
Napi::Value gather(const Napi::CallbackInfo& info) {
  const at::Tensor latents = parse_tokens(info[0], "latents");
  auto anchors = parse_flagged_lists(info[1], "anchors", latents, per_image(info[2]));
  return Environment::of(info.Env())
      .run(info.Env(), info[3],
           [latents, anchors = std::move(anchors)](const Job&) {
             return settle_tensor(jit::gather(latents, anchors));
           },
           {common_device({latents})});
}

// (velocity, anchors, rows, cols, job)
Napi::Value lift(const Napi::CallbackInfo& info) {
  const at::Tensor v = parse_tokens(info[0], "velocity");
  const Grid grid = parse_grid(info[2], info[3]);
  auto anchors = parse_token_lists(info[1], "anchors", v.size(0), v.size(1), grid.tokens());
  Environment& environment = Environment::of(info.Env());
  const int device = common_device({v});
  jit::LifterCache& lifters = environment.lifters(device);
  return environment.run(info.Env(), info[4],
                         [v, grid, anchors = std::move(anchors), &lifters](const Job&) {
                           return settle_tensor(jit::lift(v, anchors, grid, lifters));
                         },
                         {device});
}

// (velocity, rows, cols, job)
Napi::Value importance(const Napi::CallbackInfo& info) {
  const at::Tensor v = parse_tokens(info[0], "velocity");
  const Grid grid = parse_grid(info[1], info[2]);
  expect_tokens(v, "velocity", v.size(0), grid.tokens(), v.size(2));
  return Environment::of(info.Env())
      .run(info.Env(), info[3],
           [v, grid](const Job&) { return settle_floats(jit::importance(v, grid).cpu()); },
           {common_device({v})});
}

// (velocity, anchors, perImage, count, rows, cols, job) -> Int32Array of count per image
Napi::Value select_tokens(const Napi::CallbackInfo& info) {
  const at::Tensor v = parse_tokens(info[0], "velocity");
  const Grid grid = parse_grid(info[4], info[5]);
  expect_tokens(v, "velocity", v.size(0), grid.tokens(), v.size(2));
  auto anchors = parse_flagged_lists(info[1], "anchors", v, per_image(info[2]));
  const int64_t count = parse_integer(info[3], "count", 0, grid.tokens() - anchors.count);
  return Environment::of(info.Env())
      .run(info.Env(), info[6],
           [v, grid, count, anchors = std::move(anchors)](const Job&) {
             auto chosen = jit::select_tokens(v, anchors, count, grid);
             return Environment::Settle([chosen = std::move(chosen)](Napi::Env env) -> napi_value {
               Napi::Int32Array array = Napi::Int32Array::New(env, chosen.size());
               std::copy(chosen.begin(), chosen.end(), array.Data());
               return array;
             });
           },
           {common_device({v})});
}

// (latents, velocity, sigma, job)
Napi::Value predict_clean(const Napi::CallbackInfo& info) {
  const at::Tensor latents = parse_tokens(info[0], "latents");
  const at::Tensor velocity = parse_tokens(info[1], "velocity");
  expect_tokens(velocity, "velocity", latents.size(0), latents.size(1), latents.size(2));
  const double sigma = parse_number(info[2], "sigma");
  return Environment::of(info.Env())
      .run(info.Env(), info[3],
           [latents, velocity, sigma](const Job&) {
             return settle_tensor(jit::predict_clean(latents, velocity, sigma));
           },
           {common_device({latents, velocity})});
}

// (latents, newTokens, target, weights: Float64Array, job)
Napi::Value micro_flow(const Napi::CallbackInfo& info) {
  at::Tensor latents = parse_tokens(info[0], "latents");
  const at::Tensor target = parse_tokens(info[2], "target");
  expect_tokens(target, "target", latents.size(0), target.size(1), latents.size(2));
  auto tokens =
      parse_token_lists(info[1], "newTokens", latents.size(0), target.size(1), latents.size(1));
  const std::vector<double> weights = parse_numbers(info[3], "weights");
  return Environment::of(info.Env())
      .run(
          info.Env(), info[4],
          [latents, target, weights, tokens = std::move(tokens)](const Job&) mutable {
            for (const double weight : weights) jit::blend(latents, target, tokens, weight);
            return Environment::Settle([](Napi::Env env) -> napi_value { return env.Undefined(); });
          },
          {common_device({latents, target})});
}

// (clean, noise, anchors, newTokens, sigma, rows, cols, perImage, job)
Napi::Value micro_flow_target(const Napi::CallbackInfo& info) {
  const at::Tensor clean = parse_tokens(info[0], "clean");
  const at::Tensor noise = parse_tokens(info[1], "noise");
  const Grid grid = parse_grid(info[5], info[6]);
  expect_tokens(clean, "clean", clean.size(0), grid.tokens(), clean.size(2));
  expect_tokens(noise, "noise", clean.size(0), grid.tokens(), clean.size(2));
  const bool split = per_image(info[7]);
  auto anchors = parse_flagged_lists(info[2], "anchors", clean, split);
  auto tokens = parse_flagged_lists(info[3], "newTokens", clean, split);
  const double sigma = parse_number(info[4], "sigma");
  Environment& environment = Environment::of(info.Env());
  const int device = common_device({clean, noise});
  jit::LifterCache& lifters = environment.lifters(device);
  return environment.run(info.Env(), info[8],
                         [clean, noise, grid, sigma, anchors = std::move(anchors),
                          tokens = std::move(tokens), &lifters](const Job&) {
                           return settle_tensor(jit::micro_flow_target(
                               clean, noise, anchors, tokens, sigma, grid, lifters));
                         },
                         {device});
}

// (latents, velocity, anchors | undefined, rows, cols, dSigma, job)
Napi::Value step(const Napi::CallbackInfo& info) {
  at::Tensor latents = parse_tokens(info[0], "latents");
  const at::Tensor v = parse_tokens(info[1], "velocity");
  const Grid grid = parse_grid(info[3], info[4]);
  expect_tokens(latents, "latents", latents.size(0), grid.tokens(), latents.size(2));
  TokenLists anchors;
  if (info[2].IsUndefined()) {
    expect_tokens(v, "velocity", latents.size(0), grid.tokens(), latents.size(2));
  } else {
    expect_tokens(v, "velocity", latents.size(0), v.size(1), latents.size(2));
    anchors = parse_token_lists(info[2], "anchors", v.size(0), v.size(1), grid.tokens());
  }
  const double d_sigma = parse_number(info[5], "dSigma");
  Environment& environment = Environment::of(info.Env());
  const int device = common_device({latents, v});
  jit::LifterCache& lifters = environment.lifters(device);
  return environment.run(
      info.Env(), info[6],
      [latents, v, grid, d_sigma, anchors = std::move(anchors), &lifters](const Job&) mutable {
        return settle_tensor(jit::euler_step(latents, v, anchors, grid, d_sigma, lifters));
      },
      {device});
}

}  // namespace

void register_jit(Napi::Env env, Napi::Object exports) {
  exports.Set("gather", Napi::Function::New<guarded<gather>>(env));
  exports.Set("lift", Napi::Function::New<guarded<lift>>(env));
  exports.Set("importance", Napi::Function::New<guarded<importance>>(env));
  exports.Set("selectTokens", Napi::Function::New<guarded<select_tokens>>(env));
  exports.Set("predictClean", Napi::Function::New<guarded<predict_clean>>(env));
  exports.Set("microFlow", Napi::Function::New<guarded<micro_flow>>(env));
  exports.Set("microFlowTarget", Napi::Function::New<guarded<micro_flow_target>>(env));
  exports.Set("step", Napi::Function::New<guarded<step>>(env));
}

}  // namespace jitflux::addon
