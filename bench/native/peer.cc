#include "peer.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/full.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>
#include <torch/csrc/jit/serialization/import.h>
#include <torch/version.h>

#include <charconv>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <map>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "eager_flux.h"
#include "eager_jit.h"
#include "eager_parts.h"
#include "harness.h"

namespace jitflux::bench {

namespace {

template <typename T>
T parse_number(std::string_view text, const std::string& name) {
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) {
    throw std::runtime_error("expected a number for " + name + " but received " +
                             std::string(text));
  }
  return value;
}

std::vector<std::string_view> split(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  while (true) {
    const size_t end = text.find(separator);
    parts.push_back(text.substr(0, end));
    if (end == std::string_view::npos) return parts;
    text.remove_prefix(end + 1);
  }
}

class Request {
 public:
  explicit Request(const std::string& line) {
    for (const std::string_view field : split(line, '\t')) {
      const size_t equals = field.find('=');
      if (equals == std::string_view::npos) {
        throw std::runtime_error("expected name=value but received " + std::string(field));
      }
      fields_.emplace(field.substr(0, equals), field.substr(equals + 1));
    }
  }

  bool has(const std::string& name) const { return fields_.count(name) != 0; }

  const std::string& text(const std::string& name) const {
    const auto it = fields_.find(name);
    if (it == fields_.end()) throw std::runtime_error("the request has no " + name);
    return it->second;
  }

  int64_t integer(const std::string& name) const { return parse_number<int64_t>(text(name), name); }
  double real(const std::string& name) const { return parse_number<double>(text(name), name); }

  template <typename T>
  std::vector<T> list(const std::string& name) const {
    std::vector<T> values;
    for (const std::string_view part : split(text(name), ',')) {
      values.push_back(parse_number<T>(part, name));
    }
    return values;
  }

  EagerGrid grid(const std::string& name) const {
    const auto sides = list<int64_t>(name);
    if (sides.size() != 2) throw std::runtime_error("expected rows,columns for " + name);
    return {sides[0], sides[1]};
  }

  // Everything that decides a tensor of inputs.
  std::string key() const {
    std::string out;
    for (const auto& [name, value] : fields_) {
      if (name.rfind("input.", 0) == 0) out += name + '=' + value + '\t';
    }
    return out;
  }

 private:
  std::map<std::string, std::string> fields_;
};

at::ScalarType dtype_of(const std::string& name) {
  if (name == "float32") return at::kFloat;
  if (name == "bfloat16") return at::kBFloat16;
  throw std::runtime_error("expected float32 or bfloat16 but received " + name);
}

EagerFluxShape shape_of(const Request& request) {
  const auto axes = request.list<int64_t>("config.ropeAxes");
  if (axes.size() != 3) throw std::runtime_error("expected three numbers for config.ropeAxes");
  return {.double_blocks = request.integer("config.doubleBlocks"),
          .single_blocks = request.integer("config.singleBlocks"),
          .head_dim = request.integer("config.headDim"),
          .guidance = request.text("config.guidance") == "true",
          .rope_axes = {axes[0], axes[1], axes[2]}};
}

at::Tensor randn(int64_t seed, at::IntArrayRef shape) {
  return at::randn(shape, at::detail::createCPUGenerator(static_cast<uint64_t>(seed)));
}

at::Tensor index_tensor(const std::vector<int64_t>& values) {
  return at::tensor(at::ArrayRef<int64_t>(values), at::kLong);
}

void save(const Request& request, const at::Tensor& result) {
  if (!request.has("save")) return;
  const at::Tensor values = result.to(at::kFloat).contiguous();
  std::ofstream file(request.text("save"), std::ios::binary);
  file.write(static_cast<const char*>(values.const_data_ptr()),
             static_cast<std::streamsize>(values.nbytes()));
  if (!file.flush()) throw std::runtime_error("cannot write " + request.text("save"));
}

template <typename Call>
double seconds_of(const Call& call) {
  const auto started = std::chrono::steady_clock::now();
  call();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
}

// A transformer with the inputs it was last asked for.
class Model {
 public:
  explicit Model(const Request& request)
      : config_channels_(request.integer("config.inChannels")),
        text_dim_(request.integer("config.textDim")),
        pooled_dim_(request.integer("config.pooledDim")),
        flux_(request.text("path"), shape_of(request), dtype_of(request.text("dtype"))) {}

  struct Inputs {
    at::Tensor latents;            // of the whole grid
    at::Tensor places;             // positions of the whole grid
    EagerFlux::Inputs of_forward;  // at the anchors, or everywhere
  };

  const Inputs& inputs(const Request& request) {
    const std::string key = request.key();
    if (!inputs_ || key != key_) {
      inputs_ = prepare(request);
      key_ = key;
    }
    return *inputs_;
  }

  const EagerFlux& flux() const { return flux_; }

 private:
  Inputs prepare(const Request& request) const {
    const at::ScalarType dtype = flux_.dtype();
    const EagerGrid grid = request.grid("input.grid");
    const at::Tensor tokens =
        randn(request.integer("input.tokenSeed"), {1, grid.tokens(), config_channels_});
    const at::Tensor places = grid_positions(grid.rows, grid.columns);
    const at::Tensor index = request.has("input.anchors")
                                 ? index_tensor(request.list<int64_t>("input.anchors"))
                                 : at::arange(grid.tokens(), at::kLong);
    const at::Tensor prompt = randn(request.integer("input.promptSeed"),
                                    {1, request.integer("input.textTokens"), text_dim_});
    const at::Tensor pooled = randn(request.integer("input.pooledSeed"), {1, pooled_dim_});
    return {
        .latents = tokens.to(dtype),
        .places = places,
        .of_forward = {.tokens = tokens.index_select(1, index).to(dtype),
                       .positions = places.index_select(0, index),
                       .prompt = prompt.to(dtype),
                       .pooled = pooled.to(dtype),
                       .sigma = at::full({1}, request.real("input.sigma"), at::kFloat).to(dtype),
                       .guidance = at::full({1}, request.real("input.guidance"), at::kFloat)}};
  }

  int64_t config_channels_;
  int64_t text_dim_;
  int64_t pooled_dim_;
  EagerFlux flux_;
  std::string key_;
  std::optional<Inputs> inputs_;
};

class Peer {
 public:
  Fields answer(const Request& request) {
    const std::string& op = request.text("op");
    if (op == "hello") return hello(request);
    if (op == "load") return load(request);
    if (op == "forward") return forward(request);
    if (op == "sample") return sample(request);
    if (op == "jit_load") return jit_load(request);
    if (op == "load_part") return load_part(request);
    if (op == "run_part") return run_part(request);
    if (op == "unload") {
      models_.erase(request.text("model"));
      parts_.erase(request.text("model"));
      return {};
    }
    throw std::runtime_error("unknown request " + op);
  }

 private:
  Model& model(const Request& request) {
    const std::string& name = request.text("model");
    const auto it = models_.find(name);
    if (it == models_.end()) throw std::runtime_error("no model " + name + " is loaded");
    return *it->second;
  }

  static Fields hello(const Request& request) {
    at::set_num_threads(static_cast<int>(request.integer("threads")));
    return {{"torch", TORCH_VERSION},
            {"threads", int64_t{at::get_num_threads()}},
            {"cpuCapability", at::get_cpu_capability()}};
  }

  Fields load(const Request& request) {
    std::unique_ptr<Model> loaded;
    const double seconds = seconds_of([&] { loaded = std::make_unique<Model>(request); });
    models_[request.text("model")] = std::move(loaded);
    return {{"seconds", seconds}};
  }

  Fields forward(const Request& request) {
    Model& of = model(request);
    const auto& inputs = of.inputs(request);
    at::Tensor result;
    const double seconds = seconds_of([&] { result = of.flux().forward(inputs.of_forward); });
    save(request, result);
    return {{"seconds", seconds}};
  }

  Fields sample(const Request& request) {
    Model& of = model(request);
    const auto& inputs = of.inputs(request);
    const at::ScalarType dtype = of.flux().dtype();
    const EagerRun run = {
        .latents = inputs.latents,
        .noise = randn(request.integer("plan.noiseSeed"), inputs.latents.sizes()).to(dtype),
        .anchors = index_tensor(request.list<int64_t>("plan.anchors")),
        .sigmas = request.list<double>("plan.sigmas"),
        .tokens_per_step = request.list<int64_t>("plan.tokensPerStep"),
        .grid = request.grid("input.grid")};
    EagerFlux::Inputs step = inputs.of_forward;
    const auto velocity = [&](const at::Tensor& tokens, const at::Tensor& anchors, double sigma) {
      step.tokens = tokens;
      step.positions = inputs.places.index_select(0, anchors);
      step.sigma = at::full({1}, sigma, at::kFloat).to(dtype);
      return of.flux().forward(step);
    };
    at::Tensor result;
    const double seconds = seconds_of([&] { result = eager_sample(velocity, run); });
    save(request, result);
    return {{"seconds", seconds}};
  }

  // kind: t5 or clip, with layers and heads; or decoder or encoder, with levels
  Fields load_part(const Request& request) {
    const std::string& kind = request.text("kind");
    const std::string& path = request.text("path");
    const at::ScalarType dtype = dtype_of(request.text("dtype"));
    std::unique_ptr<const EagerPart> loaded;
    const double seconds = seconds_of([&] {
      if (kind == "decoder" || kind == "encoder") {
        const auto load = kind == "decoder" ? load_eager_decoder : load_eager_encoder;
        loaded = load(path, request.integer("levels"), dtype);
      } else {
        const auto load = kind == "t5" ? load_eager_t5 : load_eager_clip;
        loaded = load(path, request.integer("layers"), request.integer("heads"), dtype);
      }
    });
    parts_[request.text("model")] = std::move(loaded);
    return {{"seconds", seconds}};
  }

  // ids: of one prompt; or seed, channels and side: of a map, [1, channels, side, side]
  Fields run_part(const Request& request) {
    const auto it = parts_.find(request.text("model"));
    if (it == parts_.end()) {
      throw std::runtime_error("no model " + request.text("model") + " is loaded");
    }
    at::Tensor input;
    if (request.has("ids")) {
      input = index_tensor(request.list<int64_t>("ids")).unsqueeze(0);
    } else {
      const int64_t side = request.integer("side");
      input = randn(request.integer("seed"), {1, request.integer("channels"), side, side});
    }
    at::Tensor result;
    const double seconds = seconds_of([&] { result = it->second->run(input); });
    save(request, result);
    return {{"seconds", seconds}};
  }

  // What torch.jit.load does.
  static Fields jit_load(const Request& request) {
    std::optional<torch::jit::Module> module;
    const double seconds =
        seconds_of([&] { module = torch::jit::load(request.text("path"), at::kCPU); });
    return {{"seconds", seconds},
            {"parameters", static_cast<int64_t>(module->parameters().size())}};
  }

  std::map<std::string, std::unique_ptr<Model>> models_;
  std::map<std::string, std::unique_ptr<const EagerPart>> parts_;
};

}  // namespace

void serve_peer() {
  Peer peer;
  for (std::string line; std::getline(std::cin, line);) {
    Fields answer;
    try {
      answer = peer.answer(Request(line));
    } catch (const std::exception& error) {
      // One line is enough: LibTorch's errors go on with a stack.
      const std::string_view what = error.what();
      answer = {{"error", std::string(what.substr(0, what.find('\n')))}};
    }
    std::cout << json_object(answer) << std::endl;
  }
}

}  // namespace jitflux::bench
