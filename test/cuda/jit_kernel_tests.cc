// The JiT operators.
#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/kernels.h"
#include "kernels/reflect.h"
#include "tests.h"

namespace jitflux::kernel_tests {

namespace {

const kernels::DeviceKernels& device() { return kernels::cuda_kernels(); }

struct Grid {
  int64_t rows;
  int64_t cols;
  int64_t tokens() const { return rows * cols; }
};

std::string label(const Grid& grid, std::initializer_list<std::pair<const char*, int64_t>> sizes) {
  std::string text = std::to_string(grid.rows) + "x" + std::to_string(grid.cols);
  for (const auto& [name, value] : sizes)
    text += std::string(" ") + name + " " + std::to_string(value);
  return text;
}

const std::vector<Grid> kGrids = {{1, 1}, {1, 5}, {5, 1}, {7, 5}, {3, 200}, {64, 64}};

// Some of the grid's tokens in random order.
std::vector<int32_t> random_anchors(Random& random, const Grid& grid, int64_t count) {
  std::vector<int32_t> list = random.permutation(grid.tokens());
  list.resize(static_cast<size_t>(count));
  return list;
}

std::vector<int64_t> anchor_counts(const Grid& grid) {
  std::vector<int64_t> counts = {1, grid.tokens() / 3, grid.tokens()};
  counts.push_back(std::min<int64_t>(grid.tokens(), 7));
  std::erase_if(counts, [](int64_t count) { return count < 1; });
  return counts;
}

std::vector<int32_t> positions_of(const std::vector<int32_t>& anchors, const Grid& grid) {
  std::vector<int32_t> positions(static_cast<size_t>(grid.tokens()), -1);
  for (size_t i = 0; i < anchors.size(); ++i) positions[anchors[i]] = static_cast<int32_t>(i);
  return positions;
}

// By trying every anchor: the first of those at the least distance.
std::vector<int32_t> nearest_of(const std::vector<int32_t>& anchors, const Grid& grid) {
  std::vector<int32_t> nearest(static_cast<size_t>(grid.tokens()));
  for (int64_t t = 0; t < grid.tokens(); ++t) {
    int64_t best = std::numeric_limits<int64_t>::max();
    for (size_t i = 0; i < anchors.size(); ++i) {
      const int64_t dy = anchors[i] / grid.cols - t / grid.cols;
      const int64_t dx = anchors[i] % grid.cols - t % grid.cols;
      if (dx * dx + dy * dy < best) {
        best = dx * dx + dy * dy;
        nearest[t] = static_cast<int32_t>(i);
      }
    }
  }
  return nearest;
}

void test_anchor_positions(Report& report) {
  report.begin("anchor_positions");
  Random random(1);
  for (const Grid& grid : kGrids) {
    std::vector<int64_t> counts = anchor_counts(grid);
    counts.push_back(0);
    for (const int64_t count : counts) {
      const std::vector<int32_t> anchors = random_anchors(random, grid, count);
      Case c(report, label(grid, {{"anchors", count}}));
      Buffer& list = c.input(anchors);
      Buffer& positions = c.output(Kind::kInt32, grid.tokens());
      if (!c.run([&] {
            device().anchor_positions(list.as<int32_t>(), count, positions.as<int32_t>(),
                                      grid.tokens(), nullptr);
          })) {
        continue;
      }
      const std::vector<int32_t> expected = positions_of(anchors, grid);
      for (int64_t t = 0; t < grid.tokens(); ++t) c.expect_equal(positions, t, expected[t]);
    }
  }
}

void test_nearest(Report& report) {
  report.begin("nearest_anchor_map");
  Random random(2);
  const auto check = [&](const Grid& grid, const std::vector<int32_t>& anchors) {
    Case c(report, label(grid, {{"anchors", static_cast<int64_t>(anchors.size())}}));
    Buffer& positions = c.input(positions_of(anchors, grid));
    Buffer& nearest = c.output(Kind::kInt32, grid.tokens());
    Buffer& scratch = c.output(Kind::kInt32, 2 * grid.tokens());
    if (!c.run([&] {
          device().nearest_anchor_map(positions.as<int32_t>(), nearest.as<int32_t>(),
                                      scratch.data(), grid.rows, grid.cols, nullptr);
        })) {
      return;
    }
    const std::vector<int32_t> expected = nearest_of(anchors, grid);
    for (int64_t t = 0; t < grid.tokens(); ++t) c.expect_equal(nearest, t, expected[t]);
  };
  for (const Grid& grid : kGrids) {
    for (const int64_t count : anchor_counts(grid)) {
      check(grid, random_anchors(random, grid, count));
    }
  }
  // Every second row and column, in random order: most tokens have two or four equally near ones.
  for (const Grid& grid : {Grid{9, 11}, Grid{64, 64}}) {
    std::vector<int32_t> anchors;
    for (const int32_t t : random.permutation(grid.tokens())) {
      if (t / grid.cols % 2 == 0 && t % grid.cols % 2 == 0) anchors.push_back(t);
    }
    check(grid, anchors);
  }
  // One column only, one row only, a corner.
  const Grid grid{20, 30};
  std::vector<int32_t> column;
  std::vector<int32_t> row;
  for (const int32_t t : random.permutation(grid.tokens())) {
    if (t % grid.cols == 17) column.push_back(t);
    if (t / grid.cols == 3) row.push_back(t);
  }
  check(grid, column);
  check(grid, row);
  check(grid, {static_cast<int32_t>(grid.tokens() - 1)});
}

std::vector<double> blur_weights(int64_t radius) {
  std::vector<double> weights;
  double sum = 0.0;
  for (int64_t j = -radius; j <= radius; ++j) {
    const double x =
        3.0 * static_cast<double>(j) / static_cast<double>(std::max<int64_t>(radius, 1));
    weights.push_back(std::exp(-0.5 * x * x));
    sum += weights.back();
  }
  for (double& weight : weights) weight /= sum;
  return weights;
}

// A grid, its anchors and values at them, as the kernels get them.
struct Lift {
  Grid grid;
  int64_t channels;
  int64_t radius;
  std::vector<int32_t> anchors;
  std::vector<int32_t> nearest;
  std::vector<int32_t> positions;

  Lift(const Grid& on, int64_t count, int64_t channel_count, int64_t blur_radius, Random& random)
      : grid(on),
        channels(channel_count),
        radius(blur_radius),
        anchors(random_anchors(random, on, count)),
        nearest(nearest_of(anchors, on)),
        positions(positions_of(anchors, on)) {}

  std::string text() const {
    return label(grid, {{"anchors", static_cast<int64_t>(anchors.size())},
                        {"channels", channels},
                        {"radius", radius}});
  }

  // The lifted field and the magnitude of what it is made of, in double precision.
  void reference(const Buffer& v, const Buffer& weights, std::vector<double>* full,
                 std::vector<double>* magnitude) const {
    const auto size = static_cast<size_t>(grid.tokens() * channels);
    std::vector<double> blurred(size);
    std::vector<double> blurred_magnitude(size);
    full->assign(size, 0.0);
    magnitude->assign(size, 0.0);
    for (int64_t r = 0; r < grid.rows; ++r) {
      for (int64_t x = 0; x < grid.cols; ++x) {
        for (int64_t i = 0; i < channels; ++i) {
          const int64_t at = (r * grid.cols + x) * channels + i;
          for (int64_t j = -radius; j <= radius; ++j) {
            const int64_t anchor = nearest[r * grid.cols + kernels::reflect(x + j, grid.cols)];
            const double product = weights.input(j + radius) * v.input(anchor * channels + i);
            blurred[at] += product;
            blurred_magnitude[at] += std::fabs(product);
          }
        }
      }
    }
    for (int64_t r = 0; r < grid.rows; ++r) {
      for (int64_t x = 0; x < grid.cols; ++x) {
        for (int64_t i = 0; i < channels; ++i) {
          const int64_t at = (r * grid.cols + x) * channels + i;
          const int32_t position = positions[r * grid.cols + x];
          if (position >= 0) {
            (*full)[at] = v.input(position * channels + i);
            (*magnitude)[at] = std::fabs((*full)[at]);
            continue;
          }
          for (int64_t j = -radius; j <= radius; ++j) {
            const int64_t from =
                (kernels::reflect(r + j, grid.rows) * grid.cols + x) * channels + i;
            (*full)[at] += weights.input(j + radius) * blurred[from];
            (*magnitude)[at] += weights.input(j + radius) * blurred_magnitude[from];
          }
        }
      }
    }
  }
};

std::vector<Lift> lifts(Random& random) {
  std::vector<Lift> all;
  for (const Grid& grid : kGrids) {
    const int64_t channels = grid.tokens() > 1000 ? 64 : grid.rows == 3 ? 128 : 16;
    for (const int64_t count : anchor_counts(grid))
      all.emplace_back(grid, count, channels, 3, random);
  }
  all.emplace_back(Grid{7, 5}, 4, 1, 4, random);
  all.emplace_back(Grid{7, 5}, 4, 3, 30, random);
  all.emplace_back(Grid{2, 9}, 3, 64, 30, random);
  all.emplace_back(Grid{7, 5}, 9, 1030, 0, random);
  return all;
}

void test_lift_step(Report& report) {
  report.begin("lift_step");
  Random random(3);
  constexpr float kSigma = -0.03125f;
  for (const Lift& lift : lifts(random)) {
    for (const bool steps : {true, false}) {
      std::vector<unsigned char> aligned;
      const int64_t size = lift.grid.tokens() * lift.channels;
      const std::vector<double> field =
          random.normals(static_cast<int64_t>(lift.anchors.size()) * lift.channels);
      const std::vector<double> state = random.normals(size);
      for (const int64_t offset : {0, 1}) {
        Case c(report, lift.text() + (steps ? "" : " without step"), offset);
        Buffer& v = c.input(Kind::kFloat32, field);
        Buffer& nearest = c.input(lift.nearest);
        Buffer& positions = c.input(lift.positions);
        Buffer& weights = c.input(Kind::kFloat32, blur_weights(lift.radius));
        Buffer& blurred = c.output(Kind::kFloat32, size);
        Buffer& full = c.output(Kind::kFloat32, size);
        Buffer& latents = c.in_out(Kind::kFloat32, state);
        if (!c.run([&] {
              device().lift_step({.v = v.as<float>(),
                                  .nearest = nearest.as<int32_t>(),
                                  .positions = positions.as<int32_t>(),
                                  .weights = weights.as<float>(),
                                  .radius = lift.radius,
                                  .blurred = blurred.as<float>(),
                                  .rows = lift.grid.rows,
                                  .cols = lift.grid.cols,
                                  .channels = lift.channels},
                                 full.as<float>(), steps ? latents.as<float>() : nullptr, kSigma,
                                 nullptr);
            })) {
          continue;
        }
        std::vector<unsigned char> both = full.output_bytes();
        both.insert(both.end(), latents.output_bytes().begin(), latents.output_bytes().end());
        if (offset != 0) {
          c.expect_same_bits(aligned, both, "unaligned buffers change the result");
          continue;
        }
        aligned = both;
        std::vector<double> expected;
        std::vector<double> magnitude;
        lift.reference(v, weights, &expected, &magnitude);
        for (int64_t i = 0; i < size; ++i) {
          c.compare(full, i, expected[i], magnitude[i]);
          const double step = steps ? static_cast<double>(kSigma) * expected[i] : 0.0;
          c.compare(latents, i, latents.input(i) + step,
                    std::fabs(latents.input(i)) + std::fabs(kSigma) * magnitude[i]);
        }
      }
    }
  }
}

void test_local_variance(Report& report) {
  report.begin("local_variance");
  Random random(4);
  for (const Grid& grid : kGrids) {
    for (const int64_t channels : {1, 3, 16, 64, 128}) {
      if (grid.tokens() > 1000 && channels != 64) continue;
      for (const int64_t offset : {0, 1}) {
        Case c(report, label(grid, {{"channels", channels}, {"offset", offset}}), offset);
        Buffer& v = c.input(Kind::kFloat32, random.normals(grid.tokens() * channels, 1.0));
        Buffer& out = c.output(Kind::kFloat32, grid.tokens());
        if (!c.run([&] {
              device().local_variance(v.as<float>(), out.as<float>(), grid.rows, grid.cols,
                                      channels, nullptr);
            })) {
          continue;
        }
        std::vector<float> cpu(static_cast<size_t>(grid.tokens()));
        std::vector<float> input(static_cast<size_t>(v.size()));
        for (int64_t i = 0; i < v.size(); ++i) input[i] = static_cast<float>(v.input(i));
        kernels::table().jit.local_variance(input.data(), cpu.data(), 0, grid.rows, grid.rows,
                                            grid.cols, channels);
        for (int64_t t = 0; t < grid.tokens(); ++t) {
          double sum = 0.0;
          double mean_square = 0.0;
          for (int64_t i = 0; i < channels; ++i) {
            double window[9] = {};
            double mean = 0.0;
            for (int64_t k = 0; k < 9; ++k) {
              const int64_t y = t / grid.cols + k / 3 - 1;
              const int64_t x = t % grid.cols + k % 3 - 1;
              if (y < 0 || y >= grid.rows || x < 0 || x >= grid.cols) continue;
              window[k] = v.input((y * grid.cols + x) * channels + i);
              mean += window[k] / 9.0;
              mean_square += window[k] * window[k] / 9.0;
            }
            for (const double value : window) sum += (value - mean) * (value - mean) / 9.0;
          }
          c.compare(out, t, sum / static_cast<double>(channels),
                    mean_square / static_cast<double>(channels));
          c.compare_cpu(out, t, static_cast<double>(cpu[t]),
                        mean_square / static_cast<double>(channels));
        }
      }
    }
  }
}

void test_gather_rows(Report& report) {
  report.begin("gather_rows");
  Random random(5);
  for (const Grid& grid : kGrids) {
    for (const int64_t channels : {1, 3, 16, 64, 128, 1030}) {
      if (grid.tokens() > 1000 && channels != 64) continue;
      for (const int64_t count : {int64_t{0}, grid.tokens() / 2, grid.tokens()}) {
        for (const int64_t offset : {0, 1}) {
          Case c(report,
                 label(grid, {{"channels", channels}, {"count", count}, {"offset", offset}}),
                 offset);
          const std::vector<int32_t> list = random_anchors(random, grid, count);
          Buffer& src = c.input(Kind::kFloat32, random.normals(grid.tokens() * channels));
          Buffer& tokens = c.input(list);
          Buffer& out = c.output(Kind::kFloat32, count * channels);
          if (!c.run([&] {
                device().gather_rows(src.as<float>(), tokens.as<int32_t>(), out.as<float>(), count,
                                     channels, nullptr);
              })) {
            continue;
          }
          for (int64_t i = 0; i < count * channels; ++i) {
            c.expect_equal(out, i, src.input(list[i / channels] * channels + i % channels));
          }
        }
      }
    }
  }
}

void test_blend_rows(Report& report) {
  report.begin("blend_rows");
  Random random(6);
  for (const Grid& grid : kGrids) {
    for (const int64_t channels : {1, 3, 16, 64}) {
      if (grid.tokens() > 1000 && channels != 64) continue;
      for (const float weight : {0.3f, 1.0f, 1.5f}) {
        for (const int64_t offset : {0, 1}) {
          const int64_t count = (grid.tokens() + 1) / 2;
          Case c(report, label(grid, {{"channels", channels}, {"offset", offset}}), offset);
          const std::vector<int32_t> list = random_anchors(random, grid, count);
          Buffer& latents = c.in_out(Kind::kFloat32, random.normals(grid.tokens() * channels));
          Buffer& target = c.input(Kind::kFloat32, random.normals(count * channels));
          Buffer& tokens = c.input(list);
          if (!c.run([&] {
                device().blend_rows(latents.as<float>(), target.as<float>(), tokens.as<int32_t>(),
                                    weight, count, channels, nullptr);
              })) {
            continue;
          }
          std::vector<double> expected(static_cast<size_t>(latents.size()));
          for (int64_t i = 0; i < latents.size(); ++i) expected[i] = latents.input(i);
          for (int64_t i = 0; i < count * channels; ++i) {
            const int64_t at = list[i / channels] * channels + i % channels;
            const auto goal = static_cast<float>(target.input(i));
            const float kept = (1.0f - weight) * static_cast<float>(latents.input(at));
            const float added = weight * goal;
            expected[at] = weight >= 1.0f ? goal : kept + added;
          }
          for (int64_t i = 0; i < latents.size(); ++i) c.expect_equal(latents, i, expected[i]);
        }
      }
    }
  }
}

void test_micro_flow_target(Report& report) {
  report.begin("micro_flow_target");
  Random random(7);
  constexpr float kSigma = 0.7f;
  for (const Lift& lift : lifts(random)) {
    std::vector<int32_t> fresh;
    for (const int32_t t : random.permutation(lift.grid.tokens())) {
      if (lift.positions[t] < 0 || t % 5 == 0) fresh.push_back(t);
    }
    std::vector<unsigned char> aligned;
    const int64_t size = lift.grid.tokens() * lift.channels;
    const auto count = static_cast<int64_t>(fresh.size());
    const std::vector<double> field =
        random.normals(static_cast<int64_t>(lift.anchors.size()) * lift.channels);
    const std::vector<double> eps = random.normals(size);
    for (const int64_t offset : {0, 1}) {
      Case c(report, lift.text(), offset);
      Buffer& v = c.input(Kind::kFloat32, field);
      Buffer& nearest = c.input(lift.nearest);
      Buffer& positions = c.input(lift.positions);
      Buffer& weights = c.input(Kind::kFloat32, blur_weights(lift.radius));
      Buffer& blurred = c.output(Kind::kFloat32, size);
      Buffer& noise = c.input(Kind::kFloat32, eps);
      Buffer& tokens = c.input(fresh);
      Buffer& out = c.output(Kind::kFloat32, count * lift.channels);
      if (!c.run([&] {
            device().micro_flow_target({.v = v.as<float>(),
                                        .nearest = nearest.as<int32_t>(),
                                        .positions = positions.as<int32_t>(),
                                        .weights = weights.as<float>(),
                                        .radius = lift.radius,
                                        .blurred = blurred.as<float>(),
                                        .rows = lift.grid.rows,
                                        .cols = lift.grid.cols,
                                        .channels = lift.channels},
                                       noise.as<float>(), tokens.as<int32_t>(), count, kSigma,
                                       out.as<float>(), nullptr);
          })) {
        continue;
      }
      if (offset != 0) {
        c.expect_same_bits(aligned, out.output_bytes(), "unaligned buffers change the result");
        continue;
      }
      aligned = out.output_bytes();
      std::vector<double> full;
      std::vector<double> magnitude;
      lift.reference(v, weights, &full, &magnitude);
      for (int64_t i = 0; i < count * lift.channels; ++i) {
        const int64_t at = fresh[i / lift.channels] * lift.channels + i % lift.channels;
        const double sigma = kSigma;
        const double added = sigma * noise.input(at);
        c.compare(out, i, (1.0 - sigma) * full[at] + added,
                  (1.0 - sigma) * magnitude[at] + std::fabs(added));
      }
    }
  }
}

void test_top_k(Report& report) {
  report.begin("top_k");
  Random random(8);
  for (const int64_t tokens : {1, 5, 35, 1000, 1024, 4096, 5003}) {
    for (const bool masked : {false, true}) {
      for (const int kind : {0, 1, 2}) {
        std::vector<double> scores = random.normals(tokens);
        std::vector<int32_t> positions(static_cast<size_t>(tokens), -1);
        int64_t candidates = 0;
        for (int64_t t = 0; t < tokens; ++t) {
          // Many ties; then special values as well.
          if (kind > 0) scores[t] = static_cast<double>(random.below(7)) - 3.0;
          if (kind == 2) {
            const double special[] = {NAN, -INFINITY, INFINITY, 0.0, -0.0, -1e-45, 1e-45, -NAN};
            const int64_t which = random.below(12);
            if (which < 8) scores[t] = special[which];
          }
          if (masked && random.below(3) == 0) positions[t] = 0;
          candidates += positions[t] < 0 ? 1 : 0;
        }
        std::vector<int32_t> order;
        for (int64_t t = 0; t < tokens; ++t) {
          if (!masked || positions[t] < 0) order.push_back(static_cast<int32_t>(t));
        }
        const auto key = [&](int32_t t) {
          const auto score = static_cast<float>(scores[t]);
          return std::isnan(score) ? -INFINITY : score;
        };
        std::stable_sort(order.begin(), order.end(),
                         [&](int32_t a, int32_t b) { return key(a) > key(b); });
        for (const int64_t count : {int64_t{0}, int64_t{1}, candidates / 2, candidates}) {
          if (count > candidates) continue;
          Case c(report, "tokens " + std::to_string(tokens) + " count " + std::to_string(count) +
                             (masked ? " masked" : "") + " scores " + std::to_string(kind));
          Buffer& score = c.input(Kind::kFloat32, scores);
          Buffer& mask = c.input(positions);
          Buffer& out = c.output(Kind::kInt32, count);
          if (!c.run([&] {
                device().top_k(score.as<float>(), masked ? mask.as<int32_t>() : nullptr, tokens,
                               count, out.as<int32_t>(), nullptr);
              })) {
            continue;
          }
          for (int64_t i = 0; i < count; ++i) c.expect_equal(out, i, order[i]);
        }
      }
    }
  }
}

}  // namespace

void test_jit(Report& report) {
  test_anchor_positions(report);
  test_nearest(report);
  test_gather_rows(report);
  test_lift_step(report);
  test_local_variance(report);
  test_top_k(report);
  test_micro_flow_target(report);
  test_blend_rows(report);
}

}  // namespace jitflux::kernel_tests
