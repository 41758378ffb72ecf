// What describe_part and component_memory say of any list of tensors. The input is such a list, one
// a line: type (a digit), sizes, name, separated by spaces ("1 8 4 encoder.layers.0.x"); with "-"
// in place of the type a list of integers under this name. Sizes are those that a reader may accept
// of a file of up to 2^48 bytes; a tensor without elements may have any.
#include <charconv>
#include <cmath>
#include <iterator>

#include "describe/flux_parameters.h"
#include "describe/memory.h"
#include "describe/parts.h"
#include "support/fuzz.h"
#include "weights/reader_util.h"

using namespace jitflux;
using namespace jitflux::fuzz;

namespace {

constexpr uint64_t kMaxFile = uint64_t{1} << 48;

class ListedFile final : public WeightFile {
 public:
  explicit ListedFile(std::string_view text) {
    path_ = "file";
    uint64_t total = 0;
    while (!text.empty()) {
      const std::string_view line = text.substr(0, text.find('\n'));
      text.remove_prefix(std::min(text.size(), line.size() + 1));
      add(line, &total);
    }
  }

  const char* format() const override { return "safetensors"; }
  std::vector<const InputFile*> inputs() const override { return {}; }

 private:
  void add(std::string_view line, uint64_t* total) {
    if (line.size() < 3 || line[1] != ' ') return;
    const bool is_list = line[0] == '-';
    if (!is_list && (line[0] < '0' || line[0] > '9')) return;
    WeightTensor tensor;
    if (!is_list) tensor.dtype = static_cast<WeightDType>(line[0] - '0');
    line.remove_prefix(2);
    while (!line.empty() && line[0] >= '0' && line[0] <= '9' && tensor.shape.size() < kMaxRank) {
      int64_t size = 0;
      const auto [end, error] = std::from_chars(line.data(), line.data() + line.size(), size);
      if (error != std::errc() || end == line.data() + line.size() || *end != ' ') return;
      line.remove_prefix(static_cast<size_t>(end - line.data()) + 1);
      tensor.shape.push_back(size);
    }
    if (is_list) {
      int_lists_.emplace(line, tensor.shape);
      return;
    }
    const std::optional<int64_t> numel = checked_numel(tensor.shape);
    if (!numel || static_cast<uint64_t>(*numel) > kMaxFile) return;
    tensor.name = line;
    tensor.strides = contiguous_strides(tensor.shape);
    // Never read here; blocks of rows are cut from it.
    tensor.offset = uint64_t{1} << 40;
    *total += tensor.nbytes();
    if (*total > kMaxFile || !is_utf8(line) || line.size() > kMaxNameLength) return;
    if (index_.emplace(tensor.name, tensors_.size()).second) tensors_.push_back(std::move(tensor));
  }
};

void check_memory(const PartDescription& found) {
  // Each form where it belongs; one of them, told by the count, for one input.
  constexpr WeightForm kForms[] = {WeightForm::kMapped, WeightForm::kPacked, WeightForm::kInt8,
                                   WeightForm::kResident, WeightForm::kStreamed};
  const WeightForm form = kForms[found.parameters % std::size(kForms)];
  MemoryRequest request;
  request.architecture = found.architecture;
  request.parameters = static_cast<double>(found.parameters);
  request.stored = WeightDType::kBFloat16;
  request.file_bytes = 1e12;
  request.dtype = WeightDType::kBFloat16;
  request.accelerator = form == WeightForm::kResident || form == WeightForm::kStreamed;
  request.form = form;
  request.work = {.rows = 64, .cols = 64, .text_tokens = 512, .images = 4, .steps = 50};
  const ComponentMemory memory = component_memory(request);
  for (const double bytes : {memory.parameters.value_or(0), memory.resident, memory.copied,
                             memory.streamed.value_or(0), memory.transient}) {
    expect(std::isfinite(bytes) && bytes >= 0, "memory is a number of bytes");
  }
  expect(memory.copied <= memory.resident || !memory.mapped, "a copy is no larger than all");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto file = std::make_shared<const ListedFile>(as_text(as_bytes(data, size)));
  const PartDescription found = describe_part(file, {});
  if (found.problem)
    check_error(*found.problem, {error_code::kWeightsMismatch, error_code::kUnsupportedFormat});
  expect(found.problem.has_value() || !found.part.empty(), "no part without a problem");
  expect(found.problem.has_value() == (found.architecture.index() == 0),
         "an architecture or a problem");
  if (found.problem) return 0;
  check_memory(found);
  if (found.part != "transformer") return 0;
  // As it is loaded.
  outcome({error_code::kWeightsMismatch, error_code::kUnsupportedFormat}, [&] {
    const FluxParameters parameters = FluxParameters::resolve(file);
    for (const std::string& name : parameters.names()) {
      expect(!parameters.pieces(name).empty(), "a parameter has pieces");
    }
  });
  return 0;
}
