// The JiT operators on square grids of growing size: what they cost per token, and whether their
// cost is linear in the number of tokens.
#include <algorithm>
#include <cmath>
#include <vector>

#include "jit/euler_step.h"
#include "jit/gather.h"
#include "jit/importance.h"
#include "jit/lifter.h"
#include "jit/micro_flow.h"
#include "sections.h"
#include "token_choice.h"

namespace jitflux::bench {

namespace {

constexpr int64_t kChannels = 64;
constexpr double kAnchorRatio = 0.35;
constexpr double kAddedRatio = 0.30;
// Tokens of all anchor lists that the lifter is built for in turn: on one small list over and over,
// the CPU learns every branch by heart, which no run would see.
constexpr int64_t kLifterTokens = 65536;

struct Point {
  int64_t tokens;
  double seconds;
};

// Least-squares slope of log(seconds) over log(tokens): 1 is linear cost. Of the fastest samples: a
// busy machine slows the grids down unequally.
double slope(const std::vector<Point>& points) {
  double mean_x = 0, mean_y = 0;
  for (const Point& p : points) {
    mean_x += std::log(static_cast<double>(p.tokens)) / static_cast<double>(points.size());
    mean_y += std::log(p.seconds) / static_cast<double>(points.size());
  }
  double covariance = 0, variance = 0;
  for (const Point& p : points) {
    const double x = std::log(static_cast<double>(p.tokens)) - mean_x;
    covariance += x * (std::log(p.seconds) - mean_y);
    variance += x * x;
  }
  return covariance / variance;
}

}  // namespace

void run_jit_operators(Report& report) {
  // Many rows without a reference: each gets part of a row's time.
  const double share = report.options().full() ? 0.5 : 0.2;
  const bool smoke = report.options().smoke();
  const std::vector<int64_t> sides =
      smoke ? std::vector<int64_t>{16, 24} : std::vector<int64_t>{16, 32, 64, 128, 256};
  // Smaller grids measure the cost of a call, and of waking a thread, rather than of tokens.
  const int64_t smallest_in_fit = smoke ? 0 : 4096;
  std::vector<std::pair<std::string, std::vector<Point>>> curves;
  for (const int64_t side : sides) {
    const Grid grid = {side, side};
    const int64_t tokens = grid.tokens();
    const auto count = [&](double ratio) {
      return static_cast<int64_t>(ratio * static_cast<double>(tokens));
    };
    const TokenChoice choice = choose_tokens(grid, count(kAnchorRatio), count(kAddedRatio));
    const auto& [anchors, added] = choice;
    at::Tensor latents = random_tensor({1, tokens, kChannels}, at::kFloat, 1);
    const at::Tensor noise = random_tensor({1, tokens, kChannels}, at::kFloat, 2);
    const at::Tensor velocity = random_tensor({1, anchors.count, kChannels}, at::kFloat, 3);
    const at::Tensor target = random_tensor({1, added.count, kChannels}, at::kFloat, 4);
    jit::LifterCache cache;

    size_t index = 0;
    const auto measure = [&](const char* name, std::function<void()> run) {
      const Samples samples = report.measure(
          name,
          {{"rows", side}, {"cols", side}, {"channels", kChannels}, {"anchors", anchors.count}},
          {.tokens = static_cast<double>(tokens)}, {"jit-flux", std::move(run)}, share);
      if (index == curves.size()) curves.push_back({name, {}});
      if (tokens >= smallest_in_fit) curves[index].second.push_back({tokens, samples.fastest()});
      ++index;
    };
    // The Euler steps add up over the calls: small ones keep the latents in a sane range.
    measure("step", [&] { jit::euler_step(latents, velocity, anchors, grid, -1e-6, cache); });
    measure("importance", [&] { jit::importance(noise, grid); });
    std::vector<TokenChoice> choices;
    for (int64_t i = 0; i < kLifterTokens / tokens; ++i) {
      choices.push_back(choose_tokens(grid, anchors.count, 0, static_cast<uint32_t>(i + 1)));
    }
    size_t turn = 0;
    measure("lifter", [&] {
      jit::Lifter(choices[turn++ % choices.size()].anchors.of(0), anchors.count, grid);
    });
    measure("micro_flow_target",
            [&] { jit::micro_flow_target(noise, latents, anchors, added, 0.5, grid, cache); });
    measure("blend", [&] { jit::micro_flow(latents, target, added, {0.5}); });
    measure("gather", [&] { jit::gather(latents, anchors); });
  }
  for (const auto& [name, points] : curves) report.summarise("slope", name, slope(points));
}

}  // namespace jitflux::bench
