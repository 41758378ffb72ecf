#include "describe/parameter_set.h"

#include <algorithm>
#include <utility>

#include "describe/parameter_list.h"
#include "weights/reader_util.h"

namespace jitflux {

namespace {

constexpr size_t kMaxNamesShown = 20;

bool matches(const std::vector<int64_t>& shape, const std::vector<int64_t>& expected) {
  return std::equal(shape.begin(), shape.end(), expected.begin(), expected.end(),
                    [](int64_t size, int64_t wanted) {
                      return wanted < 0 ? size > 0 && size <= kMaxWidth : size == wanted;
                    });
}

bool is_floating(WeightDType dtype) {
  return dtype == WeightDType::kFloat32 || dtype == WeightDType::kBFloat16 ||
         dtype == WeightDType::kFloat16 || dtype == WeightDType::kFloat64;
}

// Names that only files of another kind have. What they are called, and what to do.
struct Family {
  std::string_view mark;  // somewhere in a tensor's name
  const char* what;
};
constexpr Family kQuantised[] = {
    {".quant_state.bitsandbytes__nf4", "quantised to NF4 by bitsandbytes"},
    {".quant_state.bitsandbytes__fp4", "quantised to FP4 by bitsandbytes"},
    {".SCB", "quantised to int8 by bitsandbytes"},
    {".wscales", "quantised to 4 bits for nunchaku (SVDQuant)"},
    {".qzeros", "quantised with GPTQ or AWQ"},
    {".comfy_quant", "quantised by ComfyUI"},
    {"scaled_fp8", "scaled fp8"},
    {".scale_weight", "scaled fp8"},
};
constexpr std::string_view kAdapters[] = {".lora_A.",  ".lora_B.",   ".lora_down.",
                                          ".lora_up.", "lora_unet_", ".lora_magnitude_vector"};

}  // namespace

void refuse_other_kind(const std::string& path, std::string_view name) {
  for (const auto& [mark, what] : kQuantised) {
    if (name.find(mark) == name.npos) continue;
    fail(error_code::kUnsupportedFormat, path,
         "the weights are " + std::string(what) + " (" + in_quotes(name) +
             "), which is not supported; use weights in bfloat16, float16 or float32, as the "
             "original checkpoints and snapshots hold");
  }
  for (const std::string_view mark : kAdapters) {
    if (name.find(mark) == name.npos) continue;
    fail(error_code::kUnsupportedFormat, path,
         "a LoRA adapter (" + in_quotes(name) +
             "), which changes a model and is none; adapters are not supported");
  }
}

std::string_view module_of(std::string_view name) { return name.substr(0, name.find('.')); }

bool Mismatch::empty() const {
  return problems.empty() && missing.empty() && unexpected.empty() && misshaped.empty() &&
         mistyped.empty();
}

void Mismatch::check(const WeightTensor& tensor, const std::vector<int64_t>& shape) {
  if (!matches(tensor.shape, shape) || tensor.numel() == 0) {
    misshaped.push_back(tensor.name + ": expected " + shape_string(shape) + ", found " +
                        shape_string(tensor.shape));
  }
  if (!is_floating(tensor.dtype)) {
    mistyped.push_back(tensor.name + ": " + dtype_name(tensor.dtype) +
                       " is not a floating point type");
  }
}

void Mismatch::not_required(const WeightTensor& tensor, std::string_view name,
                            const std::set<std::string, std::less<>>& modules) {
  (modules.contains(module_of(name)) ? unexpected : extra).push_back(tensor.name);
}

void Mismatch::raise(const std::string& path, const std::string& model) && {
  for (const auto* names : {&unexpected, &extra}) {
    for (const std::string& name : *names) refuse_other_kind(path, name);
  }
  std::string message = printable_path(path) + ": the weights do not match " + model;
  for (const std::string& problem : problems) message += "; " + problem;
  size_t shown = 0;
  const auto append = [&](const char* kind, const std::vector<std::string>& list) {
    if (list.empty()) return;
    message += "; " + std::to_string(list.size()) + " " + kind;
    for (size_t i = 0; i < list.size(); ++i) {
      if (shown == kMaxNamesShown) {
        message += i == 0 ? "" : ", ...";
        break;
      }
      message += (i == 0 ? ": " : ", ") + printable(list[i]);
      ++shown;
    }
  };
  append("missing", missing);
  append("misshaped", misshaped);
  append("mistyped", mistyped);
  append("unexpected", unexpected);
  Details details;
  details.emplace_back("path", path);
  details.emplace_back("missing", std::move(missing));
  details.emplace_back("unexpected", std::move(unexpected));
  details.emplace_back("misshaped", std::move(misshaped));
  details.emplace_back("mistyped", std::move(mistyped));
  throw Error(error_code::kWeightsMismatch, message, std::move(details));
}

namespace {

// What stands before the landmarks in the names of a file.
std::set<std::string> find_prefixes(const WeightFile& file,
                                    const std::vector<std::string>& landmarks) {
  std::set<std::string> prefixes;
  for (const WeightTensor& tensor : file.tensors()) {
    const std::string_view name = tensor.name;
    for (const std::string& landmark : landmarks) {
      if (!name.ends_with(landmark)) continue;
      const std::string_view before = name.substr(0, name.size() - landmark.size());
      if (before.empty() || before.ends_with('.')) prefixes.emplace(before);
    }
  }
  return prefixes;
}

}  // namespace

bool ParameterSet::has_landmark(const WeightFile& file, const std::vector<std::string>& landmarks) {
  return !find_prefixes(file, landmarks).empty();
}

ParameterSet ParameterSet::locate(std::shared_ptr<const WeightFile> file, std::string model,
                                  const std::vector<std::string>& landmarks) {
  const std::set<std::string> prefixes = find_prefixes(*file, landmarks);
  if (prefixes.empty()) {
    fail(
        error_code::kWeightsMismatch, file->path(),
        "no parameters of " + model + " (expected a name such as " + in_quotes(landmarks[0]) + ")");
  }
  if (prefixes.size() > 1) {
    fail(error_code::kWeightsMismatch, file->path(),
         "holds more than one of " + model + ", below " + in_quotes(*prefixes.begin()) + " and " +
             in_quotes(*std::next(prefixes.begin())));
  }
  ParameterSet set;
  set.model_ = std::move(model);
  set.prefix_ = *prefixes.begin();
  for (const WeightTensor& tensor : file->tensors()) {
    const std::string_view name = tensor.name;
    if (name.starts_with(set.prefix_)) {
      set.inside_.emplace(name.substr(set.prefix_.size()), &tensor);
    }
  }
  set.file_ = std::move(file);
  return set;
}

const WeightTensor* ParameterSet::find(std::string_view name) const {
  const auto found = inside_.find(name);
  return found == inside_.end() ? nullptr : found->second;
}

bool ParameterSet::any_below(std::string_view root) const {
  const auto found = inside_.lower_bound(root);
  return found != inside_.end() && found->first.starts_with(root);
}

int64_t ParameterSet::size(std::string_view name, size_t rank, size_t dimension) const {
  const WeightTensor* tensor = find(name);
  if (tensor == nullptr || tensor->shape.size() != rank) return kUnknown;
  const int64_t size = tensor->shape[dimension];
  return size > 0 && size <= kMaxWidth ? size : kUnknown;
}

int64_t ParameterSet::count(std::string_view root) const { return count_indices(inside_, root); }

void ParameterSet::require(const std::string& name, const std::vector<int64_t>& shape) {
  if (!required_.insert(name).second) return;
  if (const WeightTensor* tensor = find(name)) {
    mismatch_.check(*tensor, shape);
  } else {
    mismatch_.missing.push_back(prefix_ + name);
  }
}

void ParameterSet::check() {
  std::set<std::string, std::less<>> modules;
  for (const std::string& name : required_) modules.emplace(module_of(name));
  for (const auto& [name, tensor] : inside_) {
    const bool ignored =
        std::any_of(ignored_.begin(), ignored_.end(),
                    [name = name](const std::string& root) { return name.starts_with(root); });
    if (!ignored && !required_.contains(name)) mismatch_.not_required(*tensor, name, modules);
  }
  if (mismatch_.empty()) {
    for (const std::string& name : extra()) refuse_other_kind(file_->path(), name);
    return;
  }
  std::move(mismatch_).raise(
      file_->path(), model_ + (prefix_.empty() ? "" : " (names below " + in_quotes(prefix_) + ")"));
}

const WeightTensor& ParameterSet::at(const std::string& name) const {
  const WeightTensor* tensor = find(name);
  if (tensor == nullptr) {
    throw Error(error_code::kNative, "The parameter " + in_quotes(name) + " was not required");
  }
  return *tensor;
}

uint64_t ParameterSet::required_bytes() const {
  uint64_t bytes = 0;
  for (const std::string& name : required_) {
    if (const WeightTensor* tensor = find(name)) bytes += tensor->nbytes();
  }
  return bytes;
}

uint64_t ParameterSet::required_elements() const {
  uint64_t elements = 0;
  for (const std::string& name : required_) {
    if (const WeightTensor* tensor = find(name)) elements += static_cast<uint64_t>(tensor->numel());
  }
  return elements;
}

}  // namespace jitflux
