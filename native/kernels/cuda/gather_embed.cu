// The latents' embedding: gathered rows times a small matrix, in float32.
//
// One block per tile of 64 rows x 64 columns: 128 threads with 4 rows x 8 columns of accumulators;
// the channels pass through shared memory 32 at a time. At 64 channels, 3072 columns: 2 flops per
// channel and element against 2 bytes written (T = bfloat16), so arithmetic is what bounds it. The
// sum of an element runs over the channels in order, whatever the width of the accesses.
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/vectors.cuh"
#include "kernels/kernels.h"

namespace jitflux::kernels::cuda {

namespace {

constexpr int kTileRows = 64;
constexpr int kTileColumns = kEmbedColumns;
constexpr int kDepth = 32;  // channels in shared memory
constexpr int kThreadRows = 4;
constexpr int kThreadColumns = 8;
constexpr int kColumnThreads = kTileColumns / kThreadColumns;
constexpr int kThreads = kTileRows / kThreadRows * kColumnThreads;
// Keeps rows 16-byte aligned, and the transposing writes off a single bank.
constexpr int kPadding = 4;

template <typename T, bool kWide>
__global__ void __launch_bounds__(kThreads)
    gather_embed_kernel(const float* __restrict__ latents, const int32_t* __restrict__ positions,
                        const float* __restrict__ weight, const float* __restrict__ bias, T* out,
                        int64_t rows, int channels, int64_t d) {
  __shared__ __align__(16) float tokens[kDepth][kTileRows + kPadding];
  __shared__ __align__(16) float weights[kDepth][kTileColumns];
  const int thread = static_cast<int>(threadIdx.x);
  const int64_t first_row = static_cast<int64_t>(blockIdx.x) * kTileRows;
  const int64_t first_column = static_cast<int64_t>(blockIdx.y) * kTileColumns;
  const float* block_weight = weight + first_column * channels;
  const int row = thread / kColumnThreads * kThreadRows;  // in the tile
  const int column = thread % kColumnThreads * kThreadColumns;
  float sum[kThreadRows][kThreadColumns] = {};
  for (int begin = 0; begin < channels; begin += kDepth) {
    // The previous channels have been used by all.
    __syncthreads();
    for (int i = thread; i < kTileRows * kDepth; i += kThreads) {
      const int c = i % kDepth;
      const int r = i / kDepth;
      float value = 0.0f;
      if (first_row + r < rows && begin + c < channels) {
        const int64_t token = positions == nullptr ? first_row + r : positions[first_row + r];
        value = round_to<T>(latents[token * channels + begin + c]);
      }
      tokens[c][r] = value;
    }
    for (int i = thread; i < kDepth * kTileColumns; i += kThreads) {
      const int c = i / kTileColumns;
      weights[c][i % kTileColumns] =
          begin + c < channels ? block_weight[static_cast<int64_t>(begin) * kTileColumns + i]
                               : 0.0f;
    }
    __syncthreads();
    const int depth = channels - begin < kDepth ? channels - begin : kDepth;
    for (int c = 0; c < depth; ++c) {
      float left[kThreadRows];
      float right[kThreadColumns];
      load<true, kThreadRows>(&tokens[c][row], 0, left);
      load<true, kThreadColumns>(&weights[c][column], 0, right);
#pragma unroll
      for (int r = 0; r < kThreadRows; ++r) {
#pragma unroll
        for (int i = 0; i < kThreadColumns; ++i) sum[r][i] = fmaf(left[r], right[i], sum[r][i]);
      }
    }
  }
  const int64_t count = d - first_column - column;
  if (count <= 0) return;
  float offset[kThreadColumns];
  load<kWide, kThreadColumns>(bias + first_column + column, count, offset);
#pragma unroll
  for (int r = 0; r < kThreadRows; ++r) {
    const int64_t to = first_row + row + r;
    if (to >= rows) break;
#pragma unroll
    for (int i = 0; i < kThreadColumns; ++i) sum[r][i] += offset[i];
    store<kWide, kThreadColumns>(out + to * d + first_column + column, count, sum[r]);
  }
}

template <typename T>
struct Launch {
  static void run(const device::GatherEmbed& a, DeviceStream stream) {
    const bool wide = is_aligned({a.bias, a.out}) && a.d % kThreadColumns == 0;
    const auto kernel = wide ? gather_embed_kernel<T, true> : gather_embed_kernel<T, false>;
    const Grid grid{divide_up(a.rows, kTileRows), divide_up(a.d, kTileColumns)};
    launch("gather_embed", kernel, grid, dim3(kThreads), stream, a.latents, a.positions, a.weight,
           a.bias, static_cast<T*>(a.out), a.rows, a.channels, a.d);
  }
};

}  // namespace

void gather_embed(Element type, const device::GatherEmbed& arguments, DeviceStream stream) {
  if (arguments.channels < 1 || arguments.channels > kEmbedMaxChannels) {
    throw std::runtime_error("gather_embed: " + std::to_string(arguments.channels) + " channels");
  }
  if (arguments.rows == 0 || arguments.d == 0) return;
  dispatch<Launch>(type, arguments, stream);
}

}  // namespace jitflux::kernels::cuda
