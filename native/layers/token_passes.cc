#include "layers/token_passes.h"

#include <algorithm>
#include <vector>

#include "base/counters.h"
#include "layers/activation.h"
#include "runtime/device.h"
#include "runtime/parallel.h"

namespace jitflux {

namespace {

// Rows that go through several kernels in turn while they are in the first-level cache.
constexpr int64_t kStrip = 4;

// Calls f with a value of x's element type.
template <typename F>
void with_type_of(const at::Tensor& x, const F& f) {
  if (x.scalar_type() == at::kBFloat16) {
    f(at::BFloat16());
  } else {
    f(float());
  }
}

// Calls f(first row, row count, scratch of strip rows x `scratch_width`) for strips of [0, rows).
template <typename T, typename F>
void parallel_strips(int64_t rows, int64_t cost, int64_t scratch_width, const F& f) {
  parallel_rows(rows, cost, [&](int64_t begin, int64_t end) {
    std::vector<KernelType<T>> scratch(static_cast<size_t>(kStrip * scratch_width));
    for (int64_t row = begin; row < end; row += kStrip) {
      f(row, std::min(kStrip, end - row), scratch.data());
    }
  });
}

// A layer's input as the kernels write it.
template <typename T>
struct InputRows {
  int64_t width;
  KernelType<T>* values = nullptr;  // or
  uint8_t* bytes = nullptr;
  float* row_scale = nullptr;

  explicit InputRows(const LayerInput& input) : width(input.values.size(1)) {
    if (input.row_scale.defined()) {
      bytes = input.values.mutable_data_ptr<uint8_t>();
      row_scale = input.row_scale.mutable_data_ptr<float>();
    } else {
      values = data<T>(input.values);
    }
  }

  // Where a kernel shall write rows of the model's type: in place, or first into `scratch`.
  KernelType<T>* target(int64_t row, KernelType<T>* scratch) const {
    return values != nullptr ? values + row * width : scratch;
  }
  // Afterwards: quantises what was written into `scratch`.
  void finish(int64_t row, int64_t count, const KernelType<T>* scratch) const {
    if (values != nullptr) return;
    row_kernels<T>().quantize_rows(scratch, width, bytes + row * width, row_scale + row, count,
                                   width, kByteOffset, kByteLevels);
  }
  int64_t scratch_width() const { return values != nullptr ? 0 : width; }
};

}  // namespace

void layer_norm_modulate(const at::Tensor& x, AdaNorm norm, const LayerInput& out) {
  count(Counter::kLayerNormModulate);
  if (const auto* device = current_kernels()) {
    device->layer_norm_modulate(element_of(x.scalar_type()),
                                {.x = x.const_data_ptr(),
                                 .shift = norm.shift,
                                 .scale = norm.scale,
                                 .out = out.values.mutable_data_ptr(),
                                 .rows = x.size(0),
                                 .d = x.size(1),
                                 .eps = kNormEps},
                                current_stream());
    return;
  }
  with_type_of(x, [&](auto zero) {
    using T = decltype(zero);
    const int64_t d = x.size(1);
    const InputRows<T> to(out);
    const auto* src = const_data<T>(x);
    parallel_strips<T>(x.size(0), 4 * d, to.scratch_width(),
                       [&](int64_t row, int64_t rows, KernelType<T>* scratch) {
                         row_kernels<T>().layer_norm_modulate(src + row * d, norm.shift, norm.scale,
                                                              to.target(row, scratch), rows, d,
                                                              kNormEps);
                         to.finish(row, rows, scratch);
                       });
  });
}

void gated_residual(const at::Tensor& x, const LayerOutput& y, const float* gate, AdaNorm norm,
                    const LayerInput& out) {
  const bool normed = norm.shift != nullptr;
  count(normed ? Counter::kGatedResidualLayerNormModulate : Counter::kGatedResidual);
  if (const auto* device = current_kernels()) {
    device->gated_residual(element_of(x.scalar_type()),
                           {.x = x.mutable_data_ptr(),
                            .y = y.values.const_data_ptr(),
                            .gate = gate,
                            .shift = norm.shift,
                            .scale = norm.scale,
                            .out = normed ? out.values.mutable_data_ptr() : nullptr,
                            .rows = x.size(0),
                            .d = x.size(1),
                            .eps = kNormEps},
                           current_stream());
    return;
  }
  with_type_of(x, [&](auto zero) {
    using T = decltype(zero);
    const auto& kernels = row_kernels<T>();
    const int64_t d = x.size(1);
    auto* residual = data<T>(x);
    const auto* src = const_data<T>(y.values);
    if (!normed) {
      parallel_rows(x.size(0), 2 * d, [&](int64_t begin, int64_t end) {
        kernels.gated_residual(residual + begin * d, src + begin * d, y.rescale(begin), gate,
                               end - begin, d);
      });
      return;
    }
    const InputRows<T> to(out);
    parallel_strips<T>(x.size(0), 6 * d, to.scratch_width(),
                       [&](int64_t row, int64_t rows, KernelType<T>* scratch) {
                         auto* strip = residual + row * d;
                         kernels.gated_residual(strip, src + row * d, y.rescale(row), gate, rows,
                                                d);
                         kernels.layer_norm_modulate(strip, norm.shift, norm.scale,
                                                     to.target(row, scratch), rows, d, kNormEps);
                         to.finish(row, rows, scratch);
                       });
  });
}

void gelu(const LayerOutput& src, int64_t src_column, const at::Tensor& prefix,
          const LayerInput& out) {
  count(Counter::kGelu);
  if (const auto* device = current_kernels()) {
    const at::Tensor from = src.values.narrow(1, src_column, src.values.size(1) - src_column);
    device->gelu_tanh(element_of(from.scalar_type()),
                      {.src = from.const_data_ptr(),
                       .src_stride = from.stride(0),
                       .prefix = prefix.defined() ? prefix.const_data_ptr() : nullptr,
                       .prefix_stride = prefix.defined() ? prefix.stride(0) : 0,
                       .prefix_columns = out.values.size(1) - from.size(1),
                       .dst = out.values.mutable_data_ptr(),
                       .dst_stride = out.values.stride(0),
                       .rows = from.size(0),
                       .d = from.size(1)},
                      current_stream());
    return;
  }
  with_type_of(src.values, [&](auto zero) {
    using T = decltype(zero);
    const int64_t src_stride = src.values.size(1);
    const int64_t width = src_stride - src_column;
    const InputRows<T> to(out);
    const int64_t begin = to.width - width;
    const auto* from = const_data<T>(src.values) + src_column;
    const auto* copied = prefix.defined() ? const_data<T>(prefix) : nullptr;
    parallel_strips<T>(src.values.size(0), 4 * width, to.scratch_width(),
                       [&](int64_t row, int64_t rows, KernelType<T>* scratch) {
                         auto* strip = to.target(row, scratch);
                         for (int64_t r = 0; copied != nullptr && r < rows; ++r) {
                           std::copy_n(copied + (row + r) * begin, begin, strip + r * to.width);
                         }
                         row_kernels<T>().gelu_tanh(from + row * src_stride, src_stride,
                                                    src.rescale(row, src_column), strip + begin,
                                                    to.width, rows, width);
                         to.finish(row, rows, scratch);
                       });
  });
}

void quantize(const at::Tensor& x, const LayerInput& out) {
  count(Counter::kQuantizeRows);
  with_type_of(x, [&](auto zero) {
    using T = decltype(zero);
    const InputRows<T> to(out);
    const auto* src = const_data<T>(x);
    parallel_rows(x.size(0), 2 * to.width, [&](int64_t begin, int64_t end) {
      to.finish(begin, end - begin, src + begin * to.width);
    });
  });
}

void qk_norm_rope(const LayerOutput& qkv, const at::Tensor& q_weight, const at::Tensor& k_weight,
                  Rotation rotation, const at::Tensor& q, const at::Tensor& k,
                  const at::Tensor& v) {
  count(Counter::kQkNormRope);
  if (const auto* device = current_kernels()) {
    const int64_t head_dim = q_weight.size(0);
    const RopeTable* table = rotation.table;
    // Where q, k and v are the columns of qkv itself, v stays where it is.
    const bool in_place = q.const_data_ptr() == qkv.values.const_data_ptr();
    device->qk_norm_rope(element_of(q.scalar_type()),
                         {.qkv = qkv.values.const_data_ptr(),
                          .qkv_stride = qkv.values.stride(0),
                          .q_weight = q_weight.const_data_ptr<float>(),
                          .k_weight = k_weight.const_data_ptr<float>(),
                          .cos = table == nullptr ? nullptr : table->cos.const_data_ptr<float>(),
                          .sin = table == nullptr ? nullptr : table->sin.const_data_ptr<float>(),
                          .positions = rotation.positions,
                          .q = q.mutable_data_ptr(),
                          .k = k.mutable_data_ptr(),
                          .v = in_place ? nullptr : v.mutable_data_ptr(),
                          .out_stride = q.stride(0),
                          .rows = q.size(0),
                          .heads = q.size(1) / head_dim,
                          .head_dim = head_dim,
                          .eps = kNormEps},
                         current_stream());
    return;
  }
  with_type_of(qkv.values, [&](auto zero) {
    using T = decltype(zero);
    const int64_t stride = qkv.values.size(1);
    const int64_t d = q.size(1);
    const int64_t head_dim = q_weight.size(0);
    const bool rotate = rotation.table != nullptr;
    const float* cos = rotate ? rotation.table->cos.const_data_ptr<float>() : nullptr;
    const float* sin = rotate ? rotation.table->sin.const_data_ptr<float>() : nullptr;
    const float* q_vector = q_weight.const_data_ptr<float>();
    const float* k_vector = k_weight.const_data_ptr<float>();
    const auto* src = const_data<T>(qkv.values);
    auto* to_q = data<T>(q);
    auto* to_k = data<T>(k);
    auto* to_v = data<T>(v);
    parallel_rows(q.size(0), 6 * d, [&](int64_t begin, int64_t end) {
      row_kernels<T>().qk_norm_rope({.qkv = src + begin * stride,
                                     .qkv_stride = stride,
                                     .rescale = qkv.rescale(begin),
                                     .q_weight = q_vector,
                                     .k_weight = k_vector,
                                     .cos = cos,
                                     .sin = sin,
                                     .positions = rotation.positions,
                                     .first_row = begin,
                                     .q = to_q + begin * d,
                                     .k = to_k + begin * d,
                                     .v = to_v + begin * d,
                                     .rows = end - begin,
                                     .heads = d / head_dim,
                                     .head_dim = head_dim,
                                     .eps = kNormEps});
    });
  });
}

void gather_embed(const float* latents, const int32_t* positions, const LatentEmbedder& embedder,
                  const at::Tensor& out) {
  count(Counter::kGatherEmbed);
  if (const auto* device = current_kernels()) {
    device->gather_embed(element_of(out.scalar_type()),
                         {.latents = latents,
                          .positions = positions,
                          .weight = embedder.weight.const_data_ptr<float>(),
                          .bias = embedder.bias.const_data_ptr<float>(),
                          .out = out.mutable_data_ptr(),
                          .rows = out.size(0),
                          .channels = embedder.weight.size(1),
                          .d = out.size(1)},
                         current_stream());
    return;
  }
  with_type_of(out, [&](auto zero) {
    using T = decltype(zero);
    const int64_t channels = embedder.weight.size(1);
    const int64_t d = out.size(1);
    const float* weight = embedder.weight.const_data_ptr<float>();
    const float* bias = embedder.bias.const_data_ptr<float>();
    auto* to = data<T>(out);
    parallel_rows(out.size(0), channels * d / 16, [&](int64_t begin, int64_t end) {
      row_kernels<T>().gather_embed({.latents = latents,
                                     .positions = positions,
                                     .first_row = begin,
                                     .weight = weight,
                                     .bias = bias,
                                     .out = to + begin * d,
                                     .rows = end - begin,
                                     .channels = channels,
                                     .d = d});
    });
  });
}

}  // namespace jitflux
