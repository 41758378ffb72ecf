#include "models/autoencoder/autoencoder.h"

#include <ATen/ops/addcmul.h>
#include <ATen/ops/conv2d.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/scaled_dot_product_attention.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "layers/activation.h"
#include "layers/group_norm.h"
#include "models/autoencoder/tiling.h"
#include "runtime/device.h"
#include "runtime/memory_arena.h"
#include "runtime/parallel.h"

namespace jitflux {

namespace {

constexpr int64_t kTile = 64;     // of Tiling::kAlways, in latent cells
constexpr int64_t kMinTile = 32;  // smaller tiles see too little to be normalised well

// A feature map [rows, columns, channels]: each row contiguous, rows possibly apart. `spare` is a
// map of the same shape that nobody needs any more, or undefined.
struct Map {
  at::Tensor data;
  at::Tensor spare;

  int64_t rows() const { return data.size(0); }
  int64_t columns() const { return data.size(1); }
  int64_t channels() const { return data.size(2); }
};

at::Tensor rows_of(const at::Tensor& map, int64_t begin, int64_t end) {
  return map.narrow(0, begin, end - begin);
}

}  // namespace

// One pass through encoder or decoder.
class Autoencoder::Run {
 public:
  Run(const Autoencoder& model, const Job& job, uint64_t done, uint64_t total)
      : config_(model.config_), dtype_(model.dtype_), job_(job), done_(done), total_(total) {}

  // z: [h, w, latent channels] -> out: [picture channels, h*f, w*f] float32.
  void decode(const Network& network, const at::Tensor& z, const at::Tensor& out) {
    strips_ = &arena_;
    Map map = enter(network, z);
    middle(network, map);
    for (const Level& level : network.levels) {
      for (const ResidualBlock& block : level.blocks) residual(block, map);
      if (level.resample) upsample(*level.resample, map);
    }
    leave(network, map, out);
  }

  // x: [H, W, picture channels] -> out: [2 * latent channels, H/f, W/f] float32.
  void encode(const Network& network, const at::Tensor& x, const at::Tensor& out) {
    Map map = enter(network, x);
    for (const Level& level : network.levels) {
      for (const ResidualBlock& block : level.blocks) residual(block, map);
      if (level.resample) downsample(*level.resample, map);
    }
    middle(network, map);
    leave(network, map, out);
  }

 private:
  void advance(const char* what) {
    job_.checkpoint();
    ++done_;
    if (job_.progress) job_.progress(done_, total_, what);
  }

  at::Tensor new_map(int64_t rows, int64_t columns, int64_t channels) const {
    return at::empty({rows, columns, channels}, options_here(dtype_));
  }

  Affine norm(const at::Tensor& x, const Norm& norm) const {
    return group_norm(x, norm.weight, norm.bias, config_.norm_groups, config_.eps);
  }

  // fill(begin, end, strip) writes rows [begin, end) of a convolution's input into the strip.
  auto normed(const at::Tensor& x, Affine affine) const {
    return [x, affine = std::move(affine)](int64_t begin, int64_t end, const at::Tensor& strip) {
      scale_shift_silu(rows_of(x, begin, end), affine, strip);
    };
  }

  // A 3x3 convolution over strips of rows: stride 1 with zeros around the map, or stride 2 with
  // zeros below and to the right. The input is rows x columns, given by fill; sink(begin, end,
  // strip) takes the output. Rows of the input that were filled are not asked for again, so that
  // the sink may overwrite what they were made from.
  template <typename Fill, typename Sink>
  void convolve(const Conv& conv, int64_t rows, int64_t columns, int64_t stride, const Fill& fill,
                const Sink& sink) const {
    const int64_t channels = conv.weight.size(1);
    const int64_t pad = stride == 1 ? 1 : 0;
    const int64_t padded_columns = stride == 1 ? columns : columns + 1;
    const std::array<int64_t, 2> strides = {stride, stride};
    const std::array<int64_t, 2> padding = {0, pad};
    const int64_t carry = 3 - stride;  // input rows that neighbouring strips share
    const bool widens = dtype_ == at::kBFloat16 && !on_accelerator() && !multiplies_bfloat16();
    const at::Tensor weight = widens ? conv.weight.to(at::kFloat) : conv.weight;
    const at::Tensor bias = widens ? conv.bias.to(at::kFloat) : conv.bias;
    const int64_t out_rows = rows / stride;
    const int64_t row_bytes =
        stride * padded_columns * channels * static_cast<int64_t>(c10::elementSize(dtype_));
    const int64_t strip = std::min(out_rows, std::max(kMinStripRows, kStripBytes / row_bytes));
    // Maps come from outside, so that the arena holds no more than strips.
    const auto kept = [&](const auto& make) {
      const MemoryArena::Scope scope(strips_);
      return make();
    };
    const at::Tensor scratch =
        kept([&] { return new_map(strip * stride + carry, padded_columns, channels); });
    if (padded_columns > columns) scratch.narrow(1, columns, 1).zero_();
    for (int64_t begin = 0; begin < out_rows; begin += strip) {
      job_.checkpoint();
      const int64_t end = std::min(begin + strip, out_rows);
      const int64_t first = begin * stride - pad;  // input row in scratch row 0
      const int64_t last = (end - 1) * stride - pad + 3;
      int64_t next = begin == 0 ? first : first + carry;
      if (next < 0) {
        scratch[0].zero_();
        next = 0;
      }
      const int64_t inside = std::min(last, rows);
      if (inside > next) {
        fill(next, inside, rows_of(scratch, next - first, inside - first).narrow(1, 0, columns));
      }
      if (last > rows) rows_of(scratch, rows - first, last - first).zero_();
      const at::Tensor input = rows_of(scratch, 0, last - first)
                                   .view({1, last - first, padded_columns, channels})
                                   .permute({0, 3, 1, 2});
      const at::Tensor output = kept([&] {
        return at::conv2d(widens ? input.to(at::kFloat) : input, weight, bias, strides, padding);
      });
      sink(begin, end, (widens ? output.to(dtype_) : output).permute({0, 2, 3, 1})[0]);
      if (end < out_rows) {
        rows_of(scratch, 0, carry).copy_(rows_of(scratch, strip * stride, strip * stride + carry));
      }
    }
  }

  Map enter(const Network& network, const at::Tensor& x) {
    Map map{new_map(x.size(0), x.size(1), network.in.weight.size(0)), {}};
    convolve(
        network.in, x.size(0), x.size(1), 1,
        [&](int64_t begin, int64_t end, const at::Tensor& strip) {
          strip.copy_(rows_of(x, begin, end));
        },
        [&](int64_t begin, int64_t end, const at::Tensor& strip) {
          rows_of(map.data, begin, end).copy_(strip);
        });
    advance("input");
    return map;
  }

  void leave(const Network& network, const Map& map, const at::Tensor& out) {
    convolve(network.out, map.rows(), map.columns(), 1,
             normed(map.data, norm(map.data, network.norm_out)),
             [&](int64_t begin, int64_t end, const at::Tensor& strip) {
               out.narrow(1, begin, end - begin).copy_(strip.permute({2, 0, 1}));
             });
    advance("output");
  }

  void residual(const ResidualBlock& block, Map& map) {
    const at::Tensor x = map.data;
    const int64_t rows = map.rows();
    const int64_t columns = map.columns();
    const int64_t channels = map.channels();
    const int64_t width = block.conv1.weight.size(0);
    at::Tensor sum, hidden;
    if (!block.shortcut) {
      sum = x;
      hidden = map.spare.defined() ? map.spare : new_map(rows, columns, width);
    } else if (2 * width <= channels) {
      // Both results of a row fit where the row was.
      const auto part = [&](int64_t offset) {
        return x.as_strided({rows, columns, width}, {x.stride(0), width, 1},
                            x.storage_offset() + offset);
      };
      sum = part(0);
      hidden = part(columns * width);
    } else {
      sum = new_map(rows, columns, width);
      hidden = new_map(rows, columns, width);
    }
    map.spare.reset();
    convolve(block.conv1, rows, columns, 1, normed(x, norm(x, block.norm1)),
             [&](int64_t begin, int64_t end, const at::Tensor& strip) {
               at::Tensor skip;
               if (block.shortcut) {
                 skip = (*block.shortcut)(rows_of(x, begin, end).reshape({-1, channels}));
               }
               rows_of(hidden, begin, end).copy_(strip);
               if (block.shortcut) rows_of(sum, begin, end).copy_(skip.view(strip.sizes()));
             });
    convolve(block.conv2, rows, columns, 1, normed(hidden, norm(hidden, block.norm2)),
             [&](int64_t begin, int64_t end, const at::Tensor& strip) {
               rows_of(sum, begin, end).add_(strip);
             });
    map = {sum, hidden};
    advance("residual block");
  }

  void attention(const Attention& block, Map& map) {
    const int64_t tokens = map.rows() * map.columns();
    const int64_t channels = map.channels();
    map = {map.data.contiguous(), {}};
    const Affine affine = norm(map.data, block.norm);
    const at::Tensor x = map.data.view({tokens, channels});
    const at::Tensor h = at::addcmul(affine.shift, x, affine.scale).to(dtype_);
    const auto head = [&](const at::Tensor& t) { return t.view({1, 1, tokens, channels}); };
    const at::Tensor attended =
        at::scaled_dot_product_attention(head(block.q(h)), head(block.k(h)), head(block.v(h)));
    x.add_(block.out(attended.reshape({tokens, channels})));
    advance("attention");
  }

  void middle(const Network& network, Map& map) {
    residual(network.middle1, map);
    attention(network.attention, map);
    residual(network.middle2, map);
  }

  // Nearest neighbours, twice in each direction, then the convolution.
  void upsample(const Conv& conv, Map& map) {
    const at::Tensor x = map.data;
    const int64_t columns = map.columns();
    const int64_t channels = map.channels();
    map.spare.reset();
    map.data = new_map(2 * x.size(0), 2 * columns, conv.weight.size(0));
    convolve(
        conv, 2 * x.size(0), 2 * columns, 1,
        [&](int64_t begin, int64_t end, const at::Tensor& strip) {
          for (int64_t row = begin; row < end; ++row) {
            strip[row - begin]
                .view({columns, 2, channels})
                .copy_(x[row / 2].unsqueeze(1).expand({columns, 2, channels}));
          }
        },
        [&](int64_t begin, int64_t end, const at::Tensor& strip) {
          rows_of(map.data, begin, end).copy_(strip);
        });
    advance("upsampling");
  }

  void downsample(const Conv& conv, Map& map) {
    const at::Tensor x = map.data;
    map.spare.reset();
    map.data = new_map(x.size(0) / 2, x.size(1) / 2, conv.weight.size(0));
    convolve(
        conv, x.size(0), x.size(1), 2,
        [&](int64_t begin, int64_t end, const at::Tensor& strip) {
          strip.copy_(rows_of(x, begin, end));
        },
        [&](int64_t begin, int64_t end, const at::Tensor& strip) {
          rows_of(map.data, begin, end).copy_(strip);
        });
    advance("downsampling");
  }

  const AutoencoderConfig& config_;
  at::ScalarType dtype_;
  const Job& job_;
  uint64_t done_;
  uint64_t total_;
  MemoryArena arena_;
  // Where strips of convolutions, and what the library takes for them, come from. They are the same
  // again and again; but an encoder's are largest where its maps are, and keeping them would raise
  // its peak (1024x1024 in float32: from 1.1 to 1.6 GB).
  const MemoryArena* strips_ = nullptr;
};

int64_t Autoencoder::decode_bytes(int64_t h, int64_t w) const {
  return static_cast<int64_t>(jitflux::decode_bytes(config_, static_cast<double>(h),
                                                    static_cast<double>(w),
                                                    static_cast<double>(c10::elementSize(dtype_))));
}

at::Tensor Autoencoder::decode(const at::Tensor& latents, const Tiling& tiling,
                               const Job& job) const {
  const int64_t images = latents.size(0);
  const int64_t h = latents.size(2);
  const int64_t w = latents.size(3);
  const int64_t factor = config_.spatial_factor();

  TileAxis rows = TileAxis::whole(h);
  TileAxis columns = TileAxis::whole(w);
  if (tiling.mode == Tiling::kFixed) {
    // As diffusers: a picture that is one tile at most is not tiled.
    if (h > tiling.tile || w > tiling.tile) {
      rows = TileAxis::fixed(h, tiling.tile, tiling.overlap);
      columns = TileAxis::fixed(w, tiling.tile, tiling.overlap);
    }
  } else if (tiling.mode == Tiling::kAlways ||
             (tiling.mode == Tiling::kAuto && decode_bytes(h, w) > tiling.budget_bytes)) {
    int64_t tile = tiling.mode == Tiling::kAlways ? kTile : (std::max(h, w) + 15) / 16 * 16;
    while (tile > kMinTile &&
           decode_bytes(std::min(tile, h), std::min(tile, w)) > tiling.budget_bytes) {
      tile -= 16;
    }
    tile = std::max(tile, kMinTile);
    rows = TileAxis::balanced(h, tile, tile / 4);
    columns = TileAxis::balanced(w, tile, tile / 4);
  }

  const at::TensorOptions options = options_here(at::kFloat);
  at::Tensor out = at::empty({images, config_.picture_channels, h * factor, w * factor}, options);
  const uint64_t blocks = decoder_.blocks();
  const uint64_t total =
      blocks * rows.starts.size() * columns.starts.size() * static_cast<uint64_t>(images);
  uint64_t done = 0;
  for (int64_t image = 0; image < images; ++image) {
    at::Tensor z = latents[image].permute({1, 2, 0}).to(current_device(), dtype_);
    if (post_quant_) z = (*post_quant_)(z);
    TileCanvas canvas(out[image], rows, columns, factor);
    for (size_t i = 0; i < rows.starts.size(); ++i) {
      for (size_t j = 0; j < columns.starts.size(); ++j) {
        const at::Tensor part = z.narrow(0, rows.starts[i], rows.extent(i))
                                    .narrow(1, columns.starts[j], columns.extent(j));
        at::Tensor tile = at::empty(
            {config_.picture_channels, part.size(0) * factor, part.size(1) * factor}, options);
        Run(*this, job, done, total).decode(decoder_, part, tile);
        done += blocks;
        canvas.add(std::move(tile));
      }
    }
  }
  return out;
}

Autoencoder::Moments Autoencoder::encode(const at::Tensor& pictures, const Job& job) const {
  const int64_t images = pictures.size(0);
  const int64_t factor = config_.spatial_factor();
  const int64_t latent = config_.latent_channels;
  at::Tensor moments =
      at::empty({images, 2 * latent, pictures.size(2) / factor, pictures.size(3) / factor},
                options_here(at::kFloat));
  const uint64_t blocks = encoder_->blocks();
  for (int64_t image = 0; image < images; ++image) {
    const at::Tensor x = pictures[image].permute({1, 2, 0}).to(current_device(), dtype_);
    Run(*this, job, blocks * static_cast<uint64_t>(image), blocks * static_cast<uint64_t>(images))
        .encode(*encoder_, x, moments[image]);
  }
  if (quant_) {
    moments = (*quant_)(moments.permute({0, 2, 3, 1}).to(dtype_))
                  .to(at::kFloat)
                  .permute({0, 3, 1, 2})
                  .contiguous();
  }
  Moments result;
  result.mean = moments.narrow(1, 0, latent).contiguous();
  result.logvar = moments.narrow(1, latent, latent).clamp(-30.0, 20.0);
  return result;
}

}  // namespace jitflux
