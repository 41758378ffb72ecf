// The engine's joint attention against at::scaled_dot_product_attention.
#include "layers/attention.h"

#include <ATen/ops/empty_like.h>
#include <ATen/ops/scaled_dot_product_attention.h>

#include "layers/workspace.h"
#include "sections.h"

namespace jitflux::bench {

namespace {

void compare_attention(Report& report, const AttentionShape& shape, at::ScalarType dtype) {
  const int64_t rows = shape.images * shape.sequence;
  const int64_t width = shape.heads * shape.head_dim;
  const at::Tensor q = random_tensor({rows, width}, dtype, 1);
  const at::Tensor k = random_tensor({rows, width}, dtype, 2);
  const at::Tensor v = random_tensor({rows, width}, dtype, 3);
  const at::Tensor out = at::empty_like(q);
  Workspace workspace;
  const Subject ours = {"joint_attention",
                        [&] { joint_attention(q, k, v, out, shape, workspace); }};
  // [images, heads, S, head_dim] views, as joint_attention()'s fallback makes them. Its copy back
  // into rows is not counted: LibTorch's CPU kernel already returns them in that order.
  const auto heads = [&](const at::Tensor& t) {
    return t.view({shape.images, shape.sequence, shape.heads, shape.head_dim}).transpose(1, 2);
  };
  at::Tensor attended;
  const Subject reference = {
      "scaled_dot_product_attention",
      [&] { attended = at::scaled_dot_product_attention(heads(q), heads(k), heads(v)); }};
  const double flops = 4.0 * static_cast<double>(shape.images * shape.heads * shape.head_dim) *
                       static_cast<double>(shape.sequence) * static_cast<double>(shape.sequence);
  report.compare("joint_attention",
                 {{"heads", shape.heads},
                  {"sequence", shape.sequence},
                  {"head_dim", shape.head_dim},
                  {"dtype", dtype_name(dtype)}},
                 {.flops = flops}, ours, reference, [&] {
                   return relative_difference(out, attended.transpose(1, 2).reshape({rows, width}));
                 });
}

}  // namespace

void run_attention(Report& report) {
  std::vector<AttentionShape> shapes = {
      {1, 4160, 8, 64},    // a small model: 4096 tokens of image, 64 of text
      {1, 4608, 24, 128},  // FLUX.1-dev, 1024 x 1024 pixels: 4096 tokens of image, 512 of text
  };
  // FLUX.1-dev with 1310 anchors: an early stage of a JiT run.
  if (report.options().full()) shapes.push_back({1, 1822, 24, 128});
  if (report.options().smoke()) shapes = {{1, 80, 2, 64}, {1, 96, 2, 128}};
  for (const AttentionShape& shape : shapes) {
    for (const auto dtype : {at::kFloat, at::kBFloat16}) compare_attention(report, shape, dtype);
  }
}

}  // namespace jitflux::bench
