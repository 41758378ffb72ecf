// JavaScript's way to the JiT operators (JitOperators of src/types.ts).
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
#include "layers/finite.h"

namespace jitflux::addon {

namespace {

// ({ latents, anchors, perImage }, job)
Napi::Value gather(const Napi::CallbackInfo& info) {
  const TensorFields o(info[0]);
  const at::Tensor latents = o.tokens("latents");
  auto anchors = o.token_lists("anchors", latents);
  return Environment::of(info.Env())
      .run(info.Env(), info[1],
           [latents, anchors = std::move(anchors)](const Job&) {
             return settle_tensor(jit::gather(latents, anchors));
           },
           {common_device({latents})});
}

// ({ velocity, anchors, grid, blur }, job)
Napi::Value lift(const Napi::CallbackInfo& info) {
  const TensorFields o(info[0]);
  const at::Tensor v = o.tokens("velocity");
  const Grid grid = o.grid();
  auto anchors = o.token_lists("anchors", v.size(0), v.size(1), grid.tokens());
  const jit::Blur blur = o.boolean("blur") ? jit::Blur::kGaussian : jit::Blur::kNone;
  Environment& environment = Environment::of(info.Env());
  const int device = common_device({v});
  jit::LifterCache& lifters = environment.lifters(device);
  return environment.run(info.Env(), info[1],
                         [v, grid, blur, anchors = std::move(anchors), &lifters](const Job&) {
                           return settle_tensor(jit::lift(v, anchors, grid, lifters, blur));
                         },
                         {device});
}

// ({ velocity, grid }, job)
Napi::Value importance(const Napi::CallbackInfo& info) {
  const TensorFields o(info[0]);
  const at::Tensor v = o.tokens("velocity");
  const Grid grid = o.grid();
  expect_tokens(v, "velocity", v.size(0), grid.tokens(), v.size(2));
  return Environment::of(info.Env())
      .run(info.Env(), info[1],
           [v, grid](const Job&) { return settle_floats(jit::importance(v, grid).cpu()); },
           {common_device({v})});
}

// ({ velocity, anchors, perImage, count, grid }, job) -> Int32Array of count per image
Napi::Value select_tokens(const Napi::CallbackInfo& info) {
  const TensorFields o(info[0]);
  const at::Tensor v = o.tokens("velocity");
  const Grid grid = o.grid();
  expect_tokens(v, "velocity", v.size(0), grid.tokens(), v.size(2));
  auto anchors = o.token_lists("anchors", v);
  const int64_t count = o.integer("count", 0, grid.tokens() - anchors.count);
  return Environment::of(info.Env())
      .run(info.Env(), info[1],
           [v, grid, count, anchors = std::move(anchors)](const Job&) {
             return settle_integers(jit::select_tokens(v, anchors, count, grid));
           },
           {common_device({v})});
}

// ({ latents, velocity, sigma }, job)
Napi::Value predict_clean(const Napi::CallbackInfo& info) {
  const TensorFields o(info[0]);
  const at::Tensor latents = o.tokens("latents");
  const at::Tensor velocity = o.tokens("velocity");
  expect_tokens(velocity, "velocity", latents.size(0), latents.size(1), latents.size(2));
  const double sigma = o.number("sigma");
  return Environment::of(info.Env())
      .run(info.Env(), info[1],
           [latents, velocity, sigma](const Job&) {
             return settle_tensor(jit::predict_clean(latents, velocity, sigma));
           },
           {common_device({latents, velocity})});
}

// ({ latents, newTokens, target, weights: Float64Array }, job)
Napi::Value micro_flow(const Napi::CallbackInfo& info) {
  const TensorFields o(info[0]);
  at::Tensor latents = o.tokens("latents");
  const at::Tensor target = o.tokens("target");
  expect_tokens(target, "target", latents.size(0), target.size(1), latents.size(2));
  auto tokens = o.token_lists("newTokens", latents.size(0), target.size(1), latents.size(1));
  std::vector<double> weights = o.numbers("weights");
  if (weights.empty()) invalid("weights", "at least one number", "none");
  return Environment::of(info.Env())
      .run(
          info.Env(), info[1],
          [latents, target, weights = std::move(weights),
           tokens = std::move(tokens)](const Job&) mutable {
            jit::micro_flow(latents, target, tokens, weights);
            return Environment::Settle([](Napi::Env env) -> napi_value { return env.Undefined(); });
          },
          {common_device({latents, target})});
}

// ({ clean, noise, anchors, newTokens, perImage, sigma, grid }, job)
Napi::Value micro_flow_target(const Napi::CallbackInfo& info) {
  const TensorFields o(info[0]);
  const at::Tensor clean = o.tokens("clean");
  const at::Tensor noise = o.tokens("noise");
  const Grid grid = o.grid();
  expect_tokens(clean, "clean", clean.size(0), grid.tokens(), clean.size(2));
  expect_tokens(noise, "noise", clean.size(0), grid.tokens(), clean.size(2));
  auto anchors = o.token_lists("anchors", clean);
  auto tokens = o.token_lists("newTokens", clean);
  const double sigma = o.number("sigma");
  Environment& environment = Environment::of(info.Env());
  const int device = common_device({clean, noise});
  jit::LifterCache& lifters = environment.lifters(device);
  return environment.run(info.Env(), info[1],
                         [clean, noise, grid, sigma, anchors = std::move(anchors),
                          tokens = std::move(tokens), &lifters](const Job&) {
                           return settle_tensor(jit::micro_flow_target(
                               clean, noise, anchors, tokens, sigma, grid, lifters));
                         },
                         {device});
}

// ({ latents, velocity, anchors?, grid, dSigma }, job)
Napi::Value step(const Napi::CallbackInfo& info) {
  const TensorFields o(info[0]);
  at::Tensor latents = o.tokens("latents");
  const at::Tensor v = o.tokens("velocity");
  const Grid grid = o.grid();
  expect_tokens(latents, "latents", latents.size(0), grid.tokens(), latents.size(2));
  TokenLists anchors;
  if (o.get("anchors").IsUndefined()) {
    expect_tokens(v, "velocity", latents.size(0), grid.tokens(), latents.size(2));
  } else {
    expect_tokens(v, "velocity", latents.size(0), v.size(1), latents.size(2));
    anchors = o.token_lists("anchors", v.size(0), v.size(1), grid.tokens());
  }
  const double d_sigma = o.number("dSigma");
  Environment& environment = Environment::of(info.Env());
  const int device = common_device({latents, v});
  jit::LifterCache& lifters = environment.lifters(device);
  return environment.run(
      info.Env(), info[1],
      [latents, v, grid, d_sigma, anchors = std::move(anchors), &lifters](const Job&) mutable {
        const at::Tensor full = jit::euler_step(latents, v, anchors, grid, d_sigma, lifters);
        expect_finite(latents, "latents");
        return settle_tensor(full);
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
