#include "describe/flux_parameters.h"

#include <algorithm>
#include <array>
#include <map>
#include <set>
#include <span>
#include <string_view>
#include <utility>

#include "describe/parameter_set.h"
#include "weights/reader_util.h"

namespace jitflux {
namespace {

constexpr int64_t kTimestepWidth = 256;
constexpr int64_t kUnknown = -1;  // a size that no tensor of the file tells

enum class Layout { kDiffusers, kOriginal };

struct RowRange {
  int64_t begin;
  int64_t count;
};

// Where one diffusers parameter lies: a tensor of the file (name without prefix), the whole of it
// if `rows` is empty, else these rows, to be concatenated.
struct Entry {
  std::string name;
  std::string source;
  std::vector<int64_t> source_shape;
  std::vector<RowRange> rows;
};

// Roots of the module tree that tell the two layouts apart from each other and from other models.
constexpr std::string_view kDiffusersRoots[] = {"transformer_blocks", "single_transformer_blocks",
                                                "x_embedder", "context_embedder",
                                                "time_text_embed"};
constexpr std::string_view kOriginalRoots[] = {"double_blocks", "single_blocks", "img_in",
                                               "txt_in",        "time_in",       "vector_in",
                                               "guidance_in",   "final_layer"};

bool contains(std::span<const std::string_view> list, std::string_view word) {
  return std::find(list.begin(), list.end(), word) != list.end();
}

struct Location {
  Layout layout = Layout::kDiffusers;
  std::string prefix;
};

using Votes = std::map<std::pair<std::string, Layout>, size_t>;

// Every tensor name votes for what stands before its first root word. A whole checkpoint holds
// other components as well, whose names have no such word or fewer of them.
Votes vote(const WeightFile& file) {
  Votes votes;
  for (const WeightTensor& tensor : file.tensors()) {
    const std::string_view name = tensor.name;
    for (size_t begin = 0; begin < name.size();) {
      const size_t end = std::min(name.find('.', begin), name.size());
      const std::string_view word = name.substr(begin, end - begin);
      const bool diffusers = contains(kDiffusersRoots, word);
      if (diffusers || contains(kOriginalRoots, word)) {
        const Layout layout = diffusers ? Layout::kDiffusers : Layout::kOriginal;
        ++votes[{std::string(name.substr(0, begin)), layout}];
        break;
      }
      begin = end + 1;
    }
  }
  return votes;
}

Location locate(const WeightFile& file) {
  const Votes votes = vote(file);
  if (votes.empty()) {
    fail(error_code::kWeightsMismatch, file.path(),
         "no parameters of a FLUX transformer (expected names such as 'transformer_blocks.0.*' or "
         "'double_blocks.0.*')");
  }
  const auto best = std::max_element(
      votes.begin(), votes.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
  for (auto other = votes.begin(); other != votes.end(); ++other) {
    if (other != best && other->second == best->second) {
      fail(error_code::kWeightsMismatch, file.path(),
           "holds two transformers of equal size, below " + in_quotes(best->first.first) + " and " +
               in_quotes(other->first.first));
    }
  }
  return {best->first.second, best->first.first};
}

// The value seen most often among plausible widths; one misshaped tensor then stands out as such
// instead of making all the others look wrong.
class Majority {
 public:
  void add(int64_t value) {
    if (value > 0 && value <= kMaxWidth) ++counts_[value];
  }

  int64_t value() const {
    int64_t best = kUnknown;
    size_t most = 0;
    for (const auto& [value, count] : counts_) {
      if (count > most) {
        best = value;
        most = count;
      }
    }
    return best;
  }

 private:
  std::map<int64_t, size_t> counts_;
};

int64_t times(int64_t factor, int64_t width) {
  return width == kUnknown ? kUnknown : factor * width;
}

int64_t sum(int64_t a, int64_t b) { return a == kUnknown || b == kUnknown ? kUnknown : a + b; }

// Everything needed to spell out the parameters; unlike FluxConfig, sizes may be unknown.
struct Sizes {
  int64_t hidden = kUnknown;
  int64_t mlp = kUnknown;
  int64_t head_dim = kUnknown;
  int64_t in_channels = kUnknown;
  int64_t out_channels = kUnknown;
  int64_t text_dim = kUnknown;
  int64_t pooled_dim = kUnknown;
  int64_t double_blocks = 0;
  int64_t single_blocks = 0;
  bool guidance = false;
};

// Spells out the parameters of a FLUX transformer for one layout.
class EntryList {
 public:
  EntryList(const Sizes& sizes, Layout layout) : sizes_(sizes), layout_(layout) { list(); }

  std::vector<Entry> take() { return std::move(entries_); }

 private:
  bool original() const { return layout_ == Layout::kOriginal; }

  void add(std::string name, std::string source, std::vector<int64_t> source_shape,
           std::vector<RowRange> rows = {}) {
    if (!original()) source = name;
    entries_.push_back(
        {std::move(name), std::move(source), std::move(source_shape), std::move(rows)});
  }

  // A linear layer with its bias: rows x columns in the diffusers layout; in the original layout
  // the given rows of a matrix of `source_rows` rows.
  void add_linear(const std::string& name, const std::string& source, int64_t rows, int64_t columns,
                  int64_t source_rows = 0, std::vector<RowRange> ranges = {}) {
    const bool sliced = original() && !ranges.empty();
    if (!sliced) ranges.clear();
    const int64_t total = sliced ? source_rows : rows;
    add(name + ".weight", source + ".weight", {total, columns}, ranges);
    add(name + ".bias", source + ".bias", {total}, ranges);
  }

  // q, k and v (and, in single blocks, the MLP) are thirds (and the rest) of one original matrix.
  void add_qkv(const std::string& block, const std::array<const char*, 3>& names,
               const std::string& source, int64_t source_rows) {
    const int64_t d = sizes_.hidden;
    for (size_t i = 0; i < 3; ++i) {
      add_linear(block + names[i], source, d, d, source_rows,
                 {{times(static_cast<int64_t>(i), d), d}});
    }
  }

  // In the order of the forward pass. Names and shapes: FluxTransformer2DModel of diffusers;
  // originals: black-forest-labs/flux src/flux/model.py.
  void list() {
    const Sizes& s = sizes_;
    const int64_t d = s.hidden;
    add_linear("x_embedder", "img_in", d, s.in_channels);
    const std::string embed = "time_text_embed.";
    add_linear(embed + "timestep_embedder.linear_1", "time_in.in_layer", d, kTimestepWidth);
    add_linear(embed + "timestep_embedder.linear_2", "time_in.out_layer", d, d);
    if (s.guidance) {
      add_linear(embed + "guidance_embedder.linear_1", "guidance_in.in_layer", d, kTimestepWidth);
      add_linear(embed + "guidance_embedder.linear_2", "guidance_in.out_layer", d, d);
    }
    add_linear(embed + "text_embedder.linear_1", "vector_in.in_layer", d, s.pooled_dim);
    add_linear(embed + "text_embedder.linear_2", "vector_in.out_layer", d, d);
    add_linear("context_embedder", "txt_in", d, s.text_dim);
    for (int64_t i = 0; i < s.double_blocks; ++i) {
      list_double_block("transformer_blocks." + std::to_string(i) + ".",
                        "double_blocks." + std::to_string(i) + ".");
    }
    for (int64_t i = 0; i < s.single_blocks; ++i) {
      list_single_block("single_transformer_blocks." + std::to_string(i) + ".",
                        "single_blocks." + std::to_string(i) + ".");
    }
    // Diffusers chunks this one as scale, shift; the original as shift, scale.
    add_linear("norm_out.linear", "final_layer.adaLN_modulation.1", times(2, d), d, times(2, d),
               {{d, d}, {0, d}});
    add_linear("proj_out", "final_layer.linear", s.out_channels, d);
  }

  void list_double_block(const std::string& block, const std::string& source) {
    const int64_t d = sizes_.hidden;
    const int64_t mlp = sizes_.mlp;
    const std::vector<int64_t> head = {sizes_.head_dim};
    add_linear(block + "norm1.linear", source + "img_mod.lin", times(6, d), d);
    add_linear(block + "norm1_context.linear", source + "txt_mod.lin", times(6, d), d);
    add_qkv(block, {"attn.to_q", "attn.to_k", "attn.to_v"}, source + "img_attn.qkv", times(3, d));
    add(block + "attn.norm_q.weight", source + "img_attn.norm.query_norm.scale", head);
    add(block + "attn.norm_k.weight", source + "img_attn.norm.key_norm.scale", head);
    add_qkv(block, {"attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"},
            source + "txt_attn.qkv", times(3, d));
    add(block + "attn.norm_added_q.weight", source + "txt_attn.norm.query_norm.scale", head);
    add(block + "attn.norm_added_k.weight", source + "txt_attn.norm.key_norm.scale", head);
    add_linear(block + "attn.to_out.0", source + "img_attn.proj", d, d);
    add_linear(block + "attn.to_add_out", source + "txt_attn.proj", d, d);
    add_linear(block + "ff.net.0.proj", source + "img_mlp.0", mlp, d);
    add_linear(block + "ff.net.2", source + "img_mlp.2", d, mlp);
    add_linear(block + "ff_context.net.0.proj", source + "txt_mlp.0", mlp, d);
    add_linear(block + "ff_context.net.2", source + "txt_mlp.2", d, mlp);
  }

  void list_single_block(const std::string& block, const std::string& source) {
    const int64_t d = sizes_.hidden;
    const int64_t mlp = sizes_.mlp;
    const int64_t fused = sum(times(3, d), mlp);
    add_linear(block + "norm.linear", source + "modulation.lin", times(3, d), d);
    add_qkv(block, {"attn.to_q", "attn.to_k", "attn.to_v"}, source + "linear1", fused);
    add(block + "attn.norm_q.weight", source + "norm.query_norm.scale", {sizes_.head_dim});
    add(block + "attn.norm_k.weight", source + "norm.key_norm.scale", {sizes_.head_dim});
    add_linear(block + "proj_mlp", source + "linear1", mlp, d, fused, {{times(3, d), mlp}});
    add_linear(block + "proj_out", source + "linear2", d, sum(d, mlp));
  }

  const Sizes& sizes_;
  Layout layout_;
  std::vector<Entry> entries_;
};

class Resolver {
 public:
  explicit Resolver(const WeightFile& file) : file_(file), location_(locate(file)) {
    for (const WeightTensor& tensor : file.tensors()) {
      if (tensor.name.starts_with(location_.prefix)) {
        inside_.emplace(std::string_view(tensor.name).substr(location_.prefix.size()), &tensor);
      }
    }
  }

  const Location& location() const { return location_; }
  // Names of tensors that are no part of the model.
  std::vector<std::string> take_extra() { return std::move(mismatch_.extra); }

  FluxConfig resolve(const std::optional<std::array<int64_t, 3>>& rope_axes, bool need_axes,
                     std::vector<std::string>* names,
                     std::map<std::string, std::vector<WeightTensor>>* pieces) {
    measure();
    entries_ = EntryList(sizes_, location_.layout).take();
    FluxConfig config = make_config();
    check_entries();
    if (mismatch_.empty()) config.rope_axes = find_axes(rope_axes, need_axes, config);
    if (!mismatch_.empty()) report();
    for (const std::string& name : mismatch_.extra) refuse_other_kind(file_.path(), name);
    for (const Entry& entry : entries_) {
      names->push_back(entry.name);
      pieces->emplace(entry.name, cut(entry));
    }
    return config;
  }

 private:
  bool original() const { return location_.layout == Layout::kOriginal; }

  const WeightTensor* find(const std::string& name) const {
    const auto found = inside_.find(name);
    return found == inside_.end() ? nullptr : found->second;
  }

  // A size of a tensor of the right rank, else kUnknown.
  int64_t size_of(const std::string& name, size_t rank, size_t dimension) const {
    const WeightTensor* tensor = find(name);
    if (tensor == nullptr || tensor->shape.size() != rank) return kUnknown;
    const int64_t size = tensor->shape[dimension];
    return size > 0 && size <= kMaxWidth ? size : kUnknown;
  }

  // One more than the highest block index below the limit; gaps show up as missing parameters. At
  // least one, so that a file that lacks all blocks of a kind is told which ones.
  void measure() {
    sizes_.double_blocks =
        count_indices(inside_, original() ? "double_blocks." : "transformer_blocks.");
    sizes_.single_blocks =
        count_indices(inside_, original() ? "single_blocks." : "single_transformer_blocks.");
    Majority hidden, mlp, head_dim;
    const auto length = [this](const std::string& name) { return size_of(name, 1, 0); };
    if (original()) {
      for (const char* name : {"img_in.bias", "txt_in.bias", "time_in.in_layer.bias",
                               "time_in.out_layer.bias", "vector_in.out_layer.bias"}) {
        hidden.add(length(name));
      }
      for (int64_t i = 0; i < sizes_.double_blocks; ++i) {
        const std::string block = "double_blocks." + std::to_string(i) + ".";
        for (const char* stream : {"img", "txt"}) {
          const std::string part = block + stream;
          hidden.add(length(part + "_attn.proj.bias"));
          mlp.add(length(part + "_mlp.0.bias"));
          head_dim.add(length(part + "_attn.norm.query_norm.scale"));
          head_dim.add(length(part + "_attn.norm.key_norm.scale"));
        }
      }
      for (int64_t i = 0; i < sizes_.single_blocks; ++i) {
        const std::string block = "single_blocks." + std::to_string(i) + ".";
        hidden.add(length(block + "linear2.bias"));
        head_dim.add(length(block + "norm.query_norm.scale"));
        head_dim.add(length(block + "norm.key_norm.scale"));
      }
      sizes_.in_channels = size_of("img_in.weight", 2, 1);
      sizes_.text_dim = size_of("txt_in.weight", 2, 1);
      sizes_.pooled_dim = size_of("vector_in.in_layer.weight", 2, 1);
      sizes_.out_channels = size_of("final_layer.linear.weight", 2, 0);
    } else {
      for (const char* name : {"x_embedder.bias", "context_embedder.bias",
                               "time_text_embed.timestep_embedder.linear_1.bias",
                               "time_text_embed.timestep_embedder.linear_2.bias",
                               "time_text_embed.text_embedder.linear_2.bias"}) {
        hidden.add(length(name));
      }
      for (int64_t i = 0; i < sizes_.double_blocks; ++i) {
        const std::string block = "transformer_blocks." + std::to_string(i) + ".";
        for (const char* name : {"attn.to_q.bias", "attn.to_out.0.bias", "attn.to_add_out.bias"}) {
          hidden.add(length(block + name));
        }
        for (const char* name : {"ff.net.0.proj.bias", "ff_context.net.0.proj.bias"}) {
          mlp.add(length(block + name));
        }
        for (const char* name : {"norm_q", "norm_k", "norm_added_q", "norm_added_k"}) {
          head_dim.add(length(block + "attn." + name + ".weight"));
        }
      }
      for (int64_t i = 0; i < sizes_.single_blocks; ++i) {
        const std::string block = "single_transformer_blocks." + std::to_string(i) + ".";
        hidden.add(length(block + "attn.to_q.bias"));
        hidden.add(length(block + "proj_out.bias"));
        mlp.add(length(block + "proj_mlp.bias"));
        head_dim.add(length(block + "attn.norm_q.weight"));
        head_dim.add(length(block + "attn.norm_k.weight"));
      }
      sizes_.in_channels = size_of("x_embedder.weight", 2, 1);
      sizes_.text_dim = size_of("context_embedder.weight", 2, 1);
      sizes_.pooled_dim = size_of("time_text_embed.text_embedder.linear_1.weight", 2, 1);
      sizes_.out_channels = size_of("proj_out.weight", 2, 0);
    }
    sizes_.hidden = hidden.value();
    sizes_.mlp = mlp.value();
    sizes_.head_dim = head_dim.value();
    const std::string_view guidance =
        original() ? "guidance_in." : "time_text_embed.guidance_embedder.";
    const auto found = inside_.lower_bound(guidance);
    sizes_.guidance = found != inside_.end() && found->first.starts_with(guidance);
  }

  FluxConfig make_config() {
    FluxConfig config;
    config.double_blocks = sizes_.double_blocks;
    config.single_blocks = sizes_.single_blocks;
    config.in_channels = sizes_.in_channels;
    config.out_channels = sizes_.out_channels;
    config.text_dim = sizes_.text_dim;
    config.pooled_dim = sizes_.pooled_dim;
    config.guidance = sizes_.guidance;
    const auto describe = [this](const char* what, int64_t part) {
      mismatch_.problems.push_back("the hidden width " + std::to_string(sizes_.hidden) +
                                   " does not go with " + what + " " + std::to_string(part));
    };
    if (sizes_.hidden == kUnknown) return config;
    if (sizes_.head_dim != kUnknown) {
      config.head_dim = sizes_.head_dim;
      config.heads = sizes_.hidden / sizes_.head_dim;
      if (sizes_.hidden % sizes_.head_dim != 0) describe("heads of size", sizes_.head_dim);
    }
    if (sizes_.mlp != kUnknown) {
      config.mlp_ratio = sizes_.mlp / sizes_.hidden;
      if (sizes_.mlp % sizes_.hidden != 0) describe("an MLP of width", sizes_.mlp);
    }
    return config;
  }

  std::string in_file(std::string_view name) const { return location_.prefix + std::string(name); }

  void check_entries() {
    std::set<std::string_view> expected;
    for (const Entry& entry : entries_) {
      if (!expected.insert(entry.source).second) continue;  // another slice of the same matrix
      const WeightTensor* tensor = find(entry.source);
      if (tensor == nullptr) {
        mismatch_.missing.push_back(in_file(entry.source));
        continue;
      }
      mismatch_.check(*tensor, entry.source_shape);
    }
    std::set<std::string, std::less<>> modules;
    for (const std::string_view name : expected) modules.emplace(module_of(name));
    for (const auto& [name, tensor] : inside_) {
      if (!expected.contains(name)) mismatch_.not_required(*tensor, name, modules);
    }
  }

  [[noreturn]] void report() {
    std::move(mismatch_).raise(
        file_.path(),
        std::string("a FLUX transformer (") + (original() ? "original" : "diffusers") + " names" +
            (location_.prefix.empty() ? "" : " below " + in_quotes(location_.prefix)) + ")");
  }

  std::array<int64_t, 3> find_axes(const std::optional<std::array<int64_t, 3>>& given, bool needed,
                                   const FluxConfig& config) {
    const int64_t d = config.head_dim;
    std::array<int64_t, 3> axes = {d / 4, 3 * d / 8, 3 * d / 8};
    const char* origin = "the default RoPE axes";
    bool stated = true;
    if (given) {
      axes = *given;
      origin = "the given RoPE axes";
    } else if (const std::vector<int64_t>* attribute = axes_attribute()) {
      std::copy(attribute->begin(), attribute->end(), axes.begin());
      origin = "the archive's axes_dims_rope";
    } else {
      stated = false;
      if (d == 128) axes = {16, 56, 56};
    }
    int64_t total = 0;
    bool valid = true;
    for (const int64_t axis : axes) {
      valid = valid && axis > 0 && axis <= d && axis % 2 == 0;
      if (valid) total += axis;
    }
    if (!valid || total != d) {
      if (!stated && !needed) return {0, 0, 0};
      mismatch_.problems.push_back(
          std::string(origin) + " " + shape_string({axes.begin(), axes.end()}) +
          " are not even numbers that add up to the head size " + std::to_string(d));
    }
    return axes;
  }

  // At the root, below the prefix, or in a config object of either.
  const std::vector<int64_t>* axes_attribute() const {
    for (const std::string& base : {location_.prefix, std::string()}) {
      for (const char* name : {"axes_dims_rope", "config.axes_dims_rope"}) {
        const auto found = file_.int_lists().find(base + name);
        if (found != file_.int_lists().end() && found->second.size() == 3) return &found->second;
      }
    }
    return nullptr;
  }

  std::vector<WeightTensor> cut(const Entry& entry) const {
    const WeightTensor& whole = *find(entry.source);
    if (entry.rows.empty()) return {whole};
    std::vector<WeightTensor> blocks;
    for (const RowRange& range : entry.rows) {
      WeightTensor block = whole;
      block.shape[0] = range.count;
      block.offset +=
          static_cast<uint64_t>(range.begin * whole.strides[0]) * element_size(whole.dtype);
      blocks.push_back(std::move(block));
    }
    return blocks;
  }

  const WeightFile& file_;
  Location location_;
  std::map<std::string_view, const WeightTensor*> inside_;  // by name without the prefix
  Sizes sizes_;
  std::vector<Entry> entries_;
  Mismatch mismatch_;
};

}  // namespace

FluxParameters FluxParameters::resolve(std::shared_ptr<const WeightFile> file,
                                       std::optional<std::array<int64_t, 3>> rope_axes) {
  return resolve(std::move(file), rope_axes, true);
}

FluxParameters FluxParameters::describe(std::shared_ptr<const WeightFile> file) {
  return resolve(std::move(file), std::nullopt, false);
}

FluxParameters FluxParameters::resolve(std::shared_ptr<const WeightFile> file,
                                       std::optional<std::array<int64_t, 3>> rope_axes,
                                       bool need_axes) {
  Resolver resolver(*file);
  FluxParameters parameters;
  parameters.config_ =
      resolver.resolve(rope_axes, need_axes, &parameters.names_, &parameters.pieces_);
  parameters.layout_ = resolver.location().layout == Layout::kOriginal ? "original" : "diffusers";
  parameters.prefix_ = resolver.location().prefix;
  parameters.extra_ = resolver.take_extra();
  parameters.file_ = std::move(file);
  return parameters;
}

void list_parameters(const FluxConfig& config, const ParameterSink& sink) {
  Sizes sizes;
  sizes.hidden = config.hidden();
  sizes.mlp = config.mlp();
  sizes.head_dim = config.head_dim;
  sizes.in_channels = config.in_channels;
  sizes.out_channels = config.out_channels;
  sizes.text_dim = config.text_dim;
  sizes.pooled_dim = config.pooled_dim;
  sizes.double_blocks = config.double_blocks;
  sizes.single_blocks = config.single_blocks;
  sizes.guidance = config.guidance;
  for (const Entry& entry : EntryList(sizes, Layout::kDiffusers).take()) {
    sink(entry.name, entry.source_shape);
  }
}

bool FluxParameters::recognises(const WeightFile& file) { return !vote(file).empty(); }

uint64_t FluxParameters::elements() const {
  uint64_t count = 0;
  for (const auto& [name, pieces] : pieces_) {
    for (const WeightTensor& piece : pieces) count += static_cast<uint64_t>(piece.numel());
  }
  return count;
}

const std::vector<WeightTensor>& FluxParameters::pieces(const std::string& diffusers_name) const {
  const auto found = pieces_.find(diffusers_name);
  if (found == pieces_.end()) {
    throw Error(
        error_code::kInvalidArgument,
        "a FLUX transformer of this configuration has no parameter " + in_quotes(diffusers_name));
  }
  return found->second;
}

}  // namespace jitflux
