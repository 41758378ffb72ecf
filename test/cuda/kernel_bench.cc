// Times of each kernel at FLUX.1-dev's sizes, by the device's clock. Every launch takes the next of
// several sets of buffers, more than the L2 cache holds, so that the bytes come from memory.
#include <algorithm>
#include <cstdio>
#include <functional>

#include "kernels/cuda/cuda_api.cuh"
#include "kernels/kernels.h"
#include "tests.h"

namespace jitflux::kernel_tests {

namespace {

#if defined(JIT_FLUX_CUDA_EMULATION)  // shows that it runs; its times mean nothing
constexpr int kBatches = 1;
constexpr int kTrial = 1;
constexpr int64_t kMaxSets = 1;
constexpr int64_t kShrink = 64;
#else
constexpr int kBatches = 7;
constexpr int kTrial = 10;
constexpr int64_t kMaxSets = 64;
constexpr int64_t kShrink = 1;
#endif
constexpr float kBatchMilliseconds = 20.0f;
constexpr float kEps = 1e-6f;

const kernels::DeviceKernels& device() { return kernels::cuda_kernels(); }

int64_t element_bytes(Element type) { return static_cast<int64_t>(size_of(kind_of(type))); }

// Device memory of the current measurement.
class Pool {
 public:
  ~Pool() {
    for (void* pointer : pointers_) cudaFree(pointer);
  }
  // Small positive floats, as any of the types.
  void* bytes(int64_t count) {
    void* pointer = nullptr;
    check_runtime(cudaMalloc(&pointer, static_cast<size_t>(std::max<int64_t>(count, 1))),
                  "cudaMalloc");
    pointers_.push_back(pointer);
    check_runtime(cudaMemset(pointer, 0x3C, static_cast<size_t>(count)), "cudaMemset");
    return pointer;
  }
  float* floats(int64_t count) { return static_cast<float*>(bytes(count * 4)); }
  int32_t* integers(const std::vector<int32_t>& values) {
    const auto size = values.size() * sizeof(int32_t);
    auto* pointer = static_cast<int32_t*>(bytes(static_cast<int64_t>(size)));
    check_runtime(cudaMemcpy(pointer, values.data(), size, cudaMemcpyHostToDevice), "upload");
    return pointer;
  }

 private:
  std::vector<void*> pointers_;
};

class Bench {
 public:
  Bench() {
    check_runtime(cudaDeviceGetAttribute(&cache_bytes_, cudaDevAttrL2CacheSize, 0), "L2 cache");
    check_runtime(cudaEventCreate(&begin_), "cudaEventCreate");
    check_runtime(cudaEventCreate(&end_), "cudaEventCreate");
    std::printf("%-20s %-34s %10s %10s\n", "kernel", "shape", "us", "GB/s");
  }
  ~Bench() {
    cudaEventDestroy(begin_);
    cudaEventDestroy(end_);
  }

  // `make` allocates one set of buffers and returns the launch on it; `bytes` is what the algorithm
  // must read and write.
  void measure(const char* kernel, const std::string& shape, double bytes,
               const std::function<std::function<void()>(Pool&)>& make) {
    Pool pool;
    std::vector<std::function<void()>> launches;
    const auto sets = static_cast<int64_t>(3.0 * static_cast<double>(cache_bytes_) / bytes) + 2;
    for (int64_t i = 0; i < std::min(sets, kMaxSets); ++i) launches.push_back(make(pool));
    size_t next = 0;
    const auto run = [&](int count) {
      check_runtime(cudaEventRecord(begin_, nullptr), "cudaEventRecord");
      for (int i = 0; i < count; ++i) launches[next++ % launches.size()]();
      check_runtime(cudaEventRecord(end_, nullptr), "cudaEventRecord");
      check_runtime(cudaEventSynchronize(end_), "cudaEventSynchronize");
      float milliseconds = 0;
      check_runtime(cudaEventElapsedTime(&milliseconds, begin_, end_), "cudaEventElapsedTime");
      return milliseconds / static_cast<float>(count);
    };
    run(static_cast<int>(launches.size()));
    const float once = run(kTrial);
    const int count =
        std::clamp(static_cast<int>(kBatchMilliseconds / std::max(once, 1e-4f)), 1, 2000);
    std::vector<float> samples;
    for (int i = 0; i < kBatches; ++i) samples.push_back(run(count));
    std::sort(samples.begin(), samples.end());
    const double seconds = samples[kBatches / 2] * 1e-3;
    const double rate = bytes / seconds * 1e-9;
    std::printf("%-20s %-34s %10.2f %10.0f\n", kernel, shape.c_str(), seconds * 1e6, rate);
    std::fflush(stdout);
    char row[512];
    std::snprintf(row, sizeof row,
                  "%s\n  {\"kernel\": \"%s\", \"shape\": \"%s\", \"microseconds\": %.3f, "
                  "\"low\": %.3f, \"high\": %.3f, \"bytes\": %.0f, \"gbytes_per_s\": %.1f}",
                  rows_.empty() ? "" : ",", kernel, shape.c_str(), seconds * 1e6,
                  static_cast<double>(samples.front()) * 1e3,
                  static_cast<double>(samples.back()) * 1e3, bytes, rate);
    rows_ += row;
  }

  std::string json() const { return "[" + rows_ + "\n]\n"; }

 private:
  int cache_bytes_ = 0;
  cudaEvent_t begin_ = nullptr;
  cudaEvent_t end_ = nullptr;
  std::string rows_;
};

std::string shape_of(Element type, std::initializer_list<int64_t> sizes) {
  std::string text = name_of(kind_of(type));
  const char* separator = " ";
  for (const int64_t size : sizes) {
    text += separator;
    text += std::to_string(size);
    separator = "x";
  }
  return text;
}

void bench_rows(Bench& bench, Element type, int64_t rows) {
  constexpr int64_t kWidth = 3072;
  constexpr int64_t kHeads = 24;
  constexpr int64_t kHeadDim = 128;
  constexpr int64_t kSingleWidth = 21504;  // q, k, v and the MLP of a single-stream block
  constexpr int64_t kHidden = 12288;
  const int64_t size = element_bytes(type);
  const auto activation = static_cast<double>(rows * kWidth * size);
  const std::string shape = shape_of(type, {rows, kWidth});

  bench.measure("layer_norm_modulate", shape, 2 * activation, [&](Pool& pool) {
    void* x = pool.bytes(rows * kWidth * size);
    void* out = pool.bytes(rows * kWidth * size);
    float* vector = pool.floats(kWidth);
    return [=] {
      device().layer_norm_modulate(type,
                                   {.x = x,
                                    .shift = vector,
                                    .scale = vector,
                                    .out = out,
                                    .rows = rows,
                                    .d = kWidth,
                                    .eps = kEps},
                                   nullptr);
    };
  });
  bench.measure("gated_residual", shape, 3 * activation, [&](Pool& pool) {
    void* x = pool.bytes(rows * kWidth * size);
    void* y = pool.bytes(rows * kWidth * size);
    float* vector = pool.floats(kWidth);
    return [=] {
      device().gated_residual(
          type, {.x = x, .y = y, .gate = vector, .rows = rows, .d = kWidth, .eps = kEps}, nullptr);
    };
  });
  bench.measure("gated_residual", shape + " + norm", 4 * activation, [&](Pool& pool) {
    void* x = pool.bytes(rows * kWidth * size);
    void* y = pool.bytes(rows * kWidth * size);
    void* out = pool.bytes(rows * kWidth * size);
    float* vector = pool.floats(kWidth);
    return [=] {
      device().gated_residual(type,
                              {.x = x,
                               .y = y,
                               .gate = vector,
                               .shift = vector,
                               .scale = vector,
                               .out = out,
                               .rows = rows,
                               .d = kWidth,
                               .eps = kEps},
                              nullptr);
    };
  });
  for (const int64_t stride : {3 * kWidth, kSingleWidth}) {
    bench.measure("qk_norm_rope", shape_of(type, {rows, stride}) + " in place", 4 * activation,
                  [&](Pool& pool) {
                    auto* qkv = static_cast<char*>(pool.bytes(rows * stride * size));
                    float* weight = pool.floats(kHeadDim);
                    float* table = pool.floats(rows * kHeadDim);
                    std::vector<int32_t> list(static_cast<size_t>(rows));
                    for (int64_t i = 0; i < rows; ++i) list[i] = static_cast<int32_t>(i);
                    const int32_t* positions = pool.integers(list);
                    return [=] {
                      device().qk_norm_rope(type,
                                            {.qkv = qkv,
                                             .qkv_stride = stride,
                                             .q_weight = weight,
                                             .k_weight = weight,
                                             .cos = table,
                                             .sin = table,
                                             .positions = positions,
                                             .q = qkv,
                                             .k = qkv + kWidth * size,
                                             .out_stride = stride,
                                             .rows = rows,
                                             .heads = kHeads,
                                             .head_dim = kHeadDim,
                                             .eps = kEps},
                                            nullptr);
                    };
                  });
  }
  bench.measure("gelu_tanh", shape_of(type, {rows, kHidden}), 8 * activation, [&](Pool& pool) {
    void* src = pool.bytes(rows * kSingleWidth * size);
    void* dst = pool.bytes(rows * (kWidth + kHidden) * size);
    return [=] {
      device().gelu_tanh(type,
                         {.src = static_cast<char*>(src) + 3 * kWidth * size,
                          .src_stride = kSingleWidth,
                          .prefix_columns = kWidth,
                          .dst = dst,
                          .dst_stride = kWidth + kHidden,
                          .rows = rows,
                          .d = kHidden},
                         nullptr);
    };
  });
  bench.measure("gelu_tanh", shape_of(type, {rows, kHidden}) + " + prefix", 10 * activation,
                [&](Pool& pool) {
                  void* src = pool.bytes(rows * kSingleWidth * size);
                  void* prefix = pool.bytes(rows * kWidth * size);
                  void* dst = pool.bytes(rows * (kWidth + kHidden) * size);
                  return [=] {
                    device().gelu_tanh(type,
                                       {.src = static_cast<char*>(src) + 3 * kWidth * size,
                                        .src_stride = kSingleWidth,
                                        .prefix = prefix,
                                        .prefix_stride = kWidth,
                                        .prefix_columns = kWidth,
                                        .dst = dst,
                                        .dst_stride = kWidth + kHidden,
                                        .rows = rows,
                                        .d = kHidden},
                                       nullptr);
                  };
                });
}

void bench_embed(Bench& bench, Element type) {
  constexpr int64_t kRows = 4096 / kShrink;
  constexpr int64_t kChannels = 64;
  constexpr int64_t kWidth = 3072;
  const int64_t size = element_bytes(type);
  const auto bytes =
      static_cast<double>(kRows * kChannels * 4 + kChannels * kWidth * 4 + kRows * kWidth * size);
  bench.measure("gather_embed", shape_of(type, {kRows, kChannels, kWidth}), bytes, [&](Pool& pool) {
    float* latents = pool.floats(kRows * kChannels);
    float* weight = pool.floats(kChannels * kWidth);
    float* bias = pool.floats(kWidth);
    void* out = pool.bytes(kRows * kWidth * size);
    return [=] {
      device().gather_embed(type,
                            {.latents = latents,
                             .weight = weight,
                             .bias = bias,
                             .out = out,
                             .rows = kRows,
                             .channels = kChannels,
                             .d = kWidth},
                            nullptr);
    };
  });
  constexpr int64_t kTextRows = 512 / kShrink;
  constexpr int64_t kTextWidth = 4096;
  bench.measure("rms_norm", shape_of(type, {kTextRows, kTextWidth}),
                static_cast<double>(kTextRows * kTextWidth * (4 + size)), [&](Pool& pool) {
                  float* x = pool.floats(kTextRows * kTextWidth);
                  float* weight = pool.floats(kTextWidth);
                  void* out = pool.bytes(kTextRows * kTextWidth * size);
                  return [=] {
                    device().rms_norm(type, x, weight, out, kTextRows, kTextWidth, kEps, nullptr);
                  };
                });
}

void bench_map(Bench& bench, Element type, int64_t side, int64_t channels) {
  const int64_t size = element_bytes(type);
  const auto map = static_cast<double>(side * side * channels * size);
  const std::string shape = shape_of(type, {side, side, channels});
  bench.measure("group_norm", shape, map, [&](Pool& pool) {
    void* x = pool.bytes(side * side * channels * size);
    void* scratch = pool.bytes(device().group_norm_scratch_bytes(side, side, channels));
    float* vector = pool.floats(channels);
    float* scale = pool.floats(channels);
    float* shift = pool.floats(channels);
    return [=] {
      device().group_norm(type,
                          {.x = x,
                           .row_stride = side * channels,
                           .rows = side,
                           .columns = side,
                           .channels = channels,
                           .groups = 32,
                           .weight = vector,
                           .bias = vector,
                           .eps = kEps,
                           .scale = scale,
                           .shift = shift,
                           .scratch = scratch},
                          nullptr);
    };
  });
  bench.measure("scale_shift_silu", shape, 2 * map, [&](Pool& pool) {
    void* x = pool.bytes(side * side * channels * size);
    void* out = pool.bytes(side * side * channels * size);
    float* vector = pool.floats(channels);
    return [=] {
      device().scale_shift_silu(type,
                                {.x = x,
                                 .x_row_stride = side * channels,
                                 .scale = vector,
                                 .shift = vector,
                                 .out = out,
                                 .out_row_stride = side * channels,
                                 .rows = side,
                                 .columns = side,
                                 .channels = channels},
                                nullptr);
    };
  });
}

// A third of the tokens are anchors, as in the sparse stages.
void bench_jit(Bench& bench, int64_t side) {
  constexpr int64_t kChannels = 64;
  constexpr int64_t kRadius = 3;
  const int64_t tokens = side * side;
  const int64_t count = tokens / 3;
  Random random(1);
  std::vector<int32_t> anchors = random.permutation(tokens);
  std::vector<int32_t> rest(anchors.begin() + static_cast<ptrdiff_t>(count), anchors.end());
  anchors.resize(static_cast<size_t>(count));
  const auto fresh = static_cast<int64_t>(rest.size()) / 2;
  rest.resize(static_cast<size_t>(fresh));
  const std::string shape = std::to_string(side) + "x" + std::to_string(side) + "x64";
  const auto field = static_cast<double>(tokens * kChannels * 4);
  const auto sparse = static_cast<double>(count * kChannels * 4);
  const auto integers = static_cast<double>(tokens * 4);

  struct Buffers {
    int32_t *list, *fresh, *positions, *nearest;
    void* scratch;
    float *v, *weights, *blurred, *full, *latents, *scores;

    kernels::device::Lift lift(int64_t side) const {
      return {.v = v,
              .nearest = nearest,
              .positions = positions,
              .weights = weights,
              .radius = kRadius,
              .blurred = blurred,
              .rows = side,
              .cols = side,
              .channels = kChannels};
    }
  };
  const auto buffers = [&](Pool& pool) {
    Buffers b{};
    b.list = pool.integers(anchors);
    b.fresh = pool.integers(rest);
    b.positions = pool.integers(std::vector<int32_t>(static_cast<size_t>(tokens)));
    b.nearest = pool.integers(std::vector<int32_t>(static_cast<size_t>(tokens)));
    b.scratch = pool.bytes(8 * tokens);
    b.v = pool.floats(tokens * kChannels);
    b.weights = pool.floats(2 * kRadius + 1);
    b.blurred = pool.floats(tokens * kChannels);
    b.full = pool.floats(tokens * kChannels);
    b.latents = pool.floats(tokens * kChannels);
    b.scores = pool.floats(tokens);
    device().anchor_positions(b.list, count, b.positions, tokens, nullptr);
    device().nearest_anchor_map(b.positions, b.nearest, b.scratch, side, side, nullptr);
    return b;
  };
  bench.measure("anchor_positions", shape, integers, [&](Pool& pool) {
    const Buffers b = buffers(pool);
    return [=] { device().anchor_positions(b.list, count, b.positions, tokens, nullptr); };
  });
  bench.measure("nearest_anchor_map", shape, 6 * integers, [&](Pool& pool) {
    const Buffers b = buffers(pool);
    return [=] {
      device().nearest_anchor_map(b.positions, b.nearest, b.scratch, side, side, nullptr);
    };
  });
  bench.measure("gather_rows", shape, 2 * sparse, [&](Pool& pool) {
    const Buffers b = buffers(pool);
    return [=] { device().gather_rows(b.latents, b.list, b.full, count, kChannels, nullptr); };
  });
  bench.measure("lift_step", shape, sparse + 5 * field + 2 * integers, [&](Pool& pool) {
    const Buffers b = buffers(pool);
    return [=] { device().lift_step(b.lift(side), b.full, b.latents, -0.1f, nullptr); };
  });
  bench.measure("local_variance", shape, field + integers, [&](Pool& pool) {
    const Buffers b = buffers(pool);
    return [=] { device().local_variance(b.v, b.scores, side, side, kChannels, nullptr); };
  });
  bench.measure("top_k", shape, 2 * integers, [&](Pool& pool) {
    const Buffers b = buffers(pool);
    return [=] {
      device().top_k(b.scores, b.positions, tokens, fresh, static_cast<int32_t*>(b.scratch),
                     nullptr);
    };
  });
  bench.measure("micro_flow_target", shape, sparse + 3 * field + 2 * integers, [&](Pool& pool) {
    const Buffers b = buffers(pool);
    return [=] {
      device().micro_flow_target(b.lift(side), b.latents, b.fresh, fresh, 0.7f, b.full, nullptr);
    };
  });
  bench.measure(
      "blend_rows", shape, 3 * static_cast<double>(fresh * kChannels * 4), [&](Pool& pool) {
        const Buffers b = buffers(pool);
        return [=] {
          device().blend_rows(b.latents, b.full, b.fresh, 0.5f, fresh, kChannels, nullptr);
        };
      });
}

}  // namespace

std::string run_benchmark() {
  Bench bench;
  for (const int64_t rows : {4608, 1945, 1822})
    bench_rows(bench, Element::kBFloat16, rows / kShrink);
  bench_rows(bench, Element::kFloat16, 4608 / kShrink);
  bench_rows(bench, Element::kFloat32, 4608 / kShrink);
  bench_embed(bench, Element::kBFloat16);
  bench_map(bench, Element::kBFloat16, 1024 / kShrink, 128);
  bench_map(bench, Element::kBFloat16, 512 / kShrink, 256);
  bench_jit(bench, 64);
  bench_jit(bench, std::max<int64_t>(256 / kShrink, 8));
  return bench.json();
}

}  // namespace jitflux::kernel_tests
