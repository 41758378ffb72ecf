#include "convert/convert.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "describe/flux_parameters.h"
#include "weights/fingerprint.h"
#include "weights/float_conversion.h"
#include "weights/input_file.h"
#include "weights/json.h"
#include "weights/output_file.h"
#include "weights/reader_util.h"
#include "weights/safetensors_reader.h"
#include "weights/safetensors_writer.h"
#include "weights/torchscript_writer.h"
#include "weights/zip_reader.h"

namespace jitflux {
namespace {

constexpr int kVersion = 2;  // of the writers: a partial file of another version is not continued
constexpr size_t kChunkBytes = size_t{4} << 20;
constexpr uint64_t kMaxJournal = uint64_t{16} << 20;     // more than kMaxTensors checksums take
constexpr uint64_t kJournalBytes = uint64_t{512} << 20;  // at most this much work is lost

// One tensor of the output and where it comes from: blocks to be concatenated.
struct PlannedTensor {
  TensorSpec spec;
  std::vector<WeightTensor> pieces;
};

struct Plan {
  std::shared_ptr<const WeightFile> file;
  std::vector<PlannedTensor> tensors;
  std::unique_ptr<WeightLayout> layout;
  std::string identity;
  ConvertResult result;
};

// What must be equal for a partial file to be continued.
std::string identify(const Plan& plan, const ConvertOptions& options,
                     const std::string& attributes) {
  uint64_t names = kFnvStart;
  for (const PlannedTensor& tensor : plan.tensors) {
    names = fnv1a(tensor.spec.name + "\n", names);
    for (const WeightTensor& piece : tensor.pieces) {
      names = fnv1a(std::string(dtype_name(piece.dtype)) + shape_string(piece.shape), names);
    }
  }
  std::string identity = "v" + std::to_string(kVersion) + " " +
                         (options.format == OutputFormat::kTorchScript ? "pt" : "safetensors") +
                         " " + (options.dtype ? dtype_name(*options.dtype) : "keep") + " " +
                         attributes + " tensors " + std::to_string(plan.tensors.size()) + " " +
                         hexadecimal(names);
  for (const InputFile* file : plan.file->inputs()) {
    const std::string& path = file->path();
    const std::string name = path.substr(path.rfind('/') + 1);
    identity += " source " + hexadecimal(fnv1a(name)) + " " + std::to_string(file->size()) + " " +
                std::to_string(file->modified());
  }
  return identity;
}

Plan make_plan(const std::string& input, const ConvertOptions& options, const Job& job) {
  Plan plan;
  plan.file = WeightFile::open(input, {.verify = options.verify, .job = job});
  std::vector<std::pair<std::string, std::vector<int64_t>>> lists;
  std::string axes;
  if (FluxParameters::recognises(*plan.file)) {
    const auto parameters = FluxParameters::resolve(plan.file, options.rope_axes);
    for (const std::string& name : parameters.names()) {
      const std::vector<WeightTensor>& pieces = parameters.pieces(name);
      TensorSpec spec{name, pieces[0].dtype, pieces[0].shape};
      for (size_t i = 1; i < pieces.size(); ++i) spec.shape[0] += pieces[i].shape[0];
      plan.tensors.push_back({std::move(spec), pieces});
    }
    for (const WeightTensor& tensor : plan.file->tensors()) {
      if (!tensor.name.starts_with(parameters.prefix())) ++plan.result.skipped_tensors;
    }
    const auto& rope = parameters.config().rope_axes;
    lists.push_back({kAxesMetadata, {rope.begin(), rope.end()}});
    for (const int64_t axis : rope) axes += (axes.empty() ? "" : ",") + std::to_string(axis);
    plan.result.layout = parameters.layout();
  } else {
    for (const WeightTensor& tensor : plan.file->tensors()) {
      plan.tensors.push_back({{tensor.name, tensor.dtype, tensor.shape}, {tensor}});
    }
  }
  if (plan.tensors.empty()) fail(error_code::kUnsupportedFormat, input, "holds no tensors");

  std::vector<TensorSpec> specs;
  for (PlannedTensor& tensor : plan.tensors) {
    if (options.dtype && is_floating_point(tensor.spec.dtype)) tensor.spec.dtype = *options.dtype;
    specs.push_back(tensor.spec);
  }
  if (options.format == OutputFormat::kTorchScript) {
    plan.layout = layout_torchscript(specs, lists);
  } else {
    // Libraries of Hugging Face insist on "format".
    std::vector<std::pair<std::string, std::string>> metadata = {{"format", "pt"}};
    if (!axes.empty()) metadata.emplace_back(kAxesMetadata, axes);
    plan.layout = layout_safetensors(specs, metadata);
  }
  plan.identity = identify(plan, options, axes);
  plan.result.tensors = specs.size();
  plan.result.file_bytes = plan.layout->file_size();
  plan.result.identity = plan.identity;
  return plan;
}

// How far a conversion is, in the order of the output file.
struct State {
  std::vector<uint32_t> crcs;            // of the completed tensors
  uint64_t tensor_bytes = 0;             // written of the next one
  uint32_t tensor_crc = 0;               // of those bytes
  ConversionLoss loss;                   // in everything that is written
  std::vector<size_t> infinite_tensors;  // the first that have such elements, in the plan
};

template <typename Number>
std::string list_of(const std::vector<Number>& numbers) {
  std::string text = "[";
  for (const Number number : numbers) {
    if (text.size() > 1) text += ", ";
    text += std::to_string(number);
  }
  return text + "]";
}

// Keeps the state of an interrupted conversion beside its partial file.
class Journal {
 public:
  Journal(const std::string& partial_path, std::string identity)
      : path_(partial_path + ".json"), identity_(std::move(identity)) {}

  // The beginning if the journal is absent, of another conversion, or damaged.
  State read() const {
    State state;
    bool same = false;
    const std::optional<std::string> text = read_own_file(path_, kMaxJournal);
    if (!text) return state;
    try {
      JsonReader json(*text, path_, "journal");
      std::string key;
      json.begin_object();
      while (json.next_key(&key)) {
        if (key == "identity") {
          same = json.read_string() == identity_;
        } else if (key == "crc32") {
          json.begin_array();
          while (json.next_item()) state.crcs.push_back(static_cast<uint32_t>(json.read_size()));
        } else if (key == "tensorBytes") {
          state.tensor_bytes = static_cast<uint64_t>(json.read_size());
        } else if (key == "infinite") {
          state.loss.infinite = static_cast<uint64_t>(json.read_size());
        } else if (key == "zero") {
          state.loss.zero = static_cast<uint64_t>(json.read_size());
        } else if (key == "infiniteTensors") {
          json.begin_array();
          while (json.next_item()) {
            state.infinite_tensors.push_back(static_cast<size_t>(json.read_size()));
          }
        } else if (key == "tensorCrc32") {
          state.tensor_crc = static_cast<uint32_t>(json.read_size());
        } else {
          json.skip();
        }
      }
      json.finish();
    } catch (const Error&) {
      return {};
    }
    return same ? state : State{};
  }

  void write(const State& state, uint64_t bytes) const {
    const std::string text = "{\n  \"identity\": \"" + identity_ +
                             "\",\n  \"bytes\": " + std::to_string(bytes) +
                             ",\n  \"tensorBytes\": " + std::to_string(state.tensor_bytes) +
                             ",\n  \"tensorCrc32\": " + std::to_string(state.tensor_crc) +
                             ",\n  \"infinite\": " + std::to_string(state.loss.infinite) +
                             ",\n  \"zero\": " + std::to_string(state.loss.zero) +
                             ",\n  \"infiniteTensors\": " + list_of(state.infinite_tensors) +
                             ",\n  \"crc32\": " + list_of(state.crcs);
    replace_file(path_, text + "\n}\n");
  }

  void remove() const { remove_file(path_); }

 private:
  std::string path_;
  std::string identity_;
};

class Conversion {
 public:
  Conversion(const Plan& plan, const std::string& output, const ConvertOptions& options,
             const Job& job)
      : plan_(plan),
        layout_(*plan.layout),
        options_(options),
        job_(job),
        file_(output),
        journal_(file_.path(), plan.identity) {
    for (const PlannedTensor& tensor : plan.tensors) total_ += tensor.spec.nbytes();
  }

  // Adds to the result what the plan does not say.
  void run(ConvertResult& result) {
    try {
      begin();
      result.resumed_bytes = written();
      while (state_.crcs.size() < layout_.order().size()) write_tensor();
      result.loss = state_.loss;
      for (const size_t index : state_.infinite_tensors) {
        result.infinite_tensors.push_back(plan_.tensors[index].spec.name);
      }
      finish();
    } catch (const Error& error) {
      if (error.code() == error_code::kAborted && options_.resume && keep_partial()) {
        throw Error(error.code(), error.what(), {{"partial", file_.path()}});
      }
      remove();
      throw;
    } catch (...) {
      remove();
      throw;
    }
  }

 private:
  uint64_t written() const { return done_ + state_.tensor_bytes; }
  const TensorSpec& spec_at(size_t position) const {
    return plan_.tensors[layout_.order()[position]].spec;
  }

  void begin() {
    if (options_.resume) state_ = journal_.read();
    if (!fits(state_)) state_ = {};
    for (size_t i = 0; i < state_.crcs.size(); ++i) done_ += spec_at(i).nbytes();
    if (written() == 0) {
      journal_.remove();
      file_.restart(layout_.file_size());
    }
    journaled_ = written();
    report("");
  }

  // Whether the partial file can be in this state.
  bool fits(const State& state) const {
    const size_t completed = state.crcs.size();
    if (completed > layout_.order().size()) return false;
    if (state.infinite_tensors.size() > kMaxInfiniteNames) return false;
    for (const size_t index : state.infinite_tensors) {
      if (index >= plan_.tensors.size()) return false;
    }
    uint64_t reached = 0;
    for (size_t i = 0; i < completed; ++i) {
      reached = std::max(reached, layout_.data_offset(layout_.order()[i]) + spec_at(i).nbytes());
    }
    if (state.tensor_bytes > 0) {
      if (completed == layout_.order().size()) return false;
      const TensorSpec& next = spec_at(completed);
      if (state.tensor_bytes > next.nbytes()) return false;
      if (state.tensor_bytes % element_size(next.dtype) != 0) return false;
      reached = layout_.data_offset(layout_.order()[completed]) + state.tensor_bytes;
    }
    return file_.size() >= reached;
  }

  // Writes the next tensor, or the rest of it.
  void write_tensor() {
    const size_t index = layout_.order()[state_.crcs.size()];
    const auto& [spec, pieces] = plan_.tensors[index];
    uint64_t skip = state_.tensor_bytes / element_size(spec.dtype);
    for (const WeightTensor& piece : pieces) {
      const auto count = static_cast<uint64_t>(piece.numel());
      const size_t size = element_size(piece.dtype);
      const uint64_t step = kChunkBytes / size;
      for (uint64_t first = std::min(skip, count); first < count; first += step) {
        job_.checkpoint();
        const auto n = static_cast<size_t>(std::min(step, count - first));
        const std::span<const std::byte> bytes = converted(index, piece, first, n);
        file_.write(layout_.data_offset(index) + state_.tensor_bytes, bytes);
        state_.tensor_crc = crc32(bytes, state_.tensor_crc);
        state_.tensor_bytes += bytes.size();
        report(spec.name);
        if (written() - journaled_ >= kJournalBytes) save();
      }
      skip -= std::min(skip, count);
    }
    done_ += state_.tensor_bytes;
    state_.crcs.push_back(state_.tensor_crc);
    state_.tensor_bytes = 0;
    state_.tensor_crc = 0;
  }

  // `count` elements of a piece of the tensor with this index, from the `first` on, in row-major
  // order and in the output's type.
  std::span<const std::byte> converted(size_t index, const WeightTensor& piece, uint64_t first,
                                       size_t count) {
    const std::span<const std::byte> from = elements(piece, first, count);
    const WeightDType type = plan_.tensors[index].spec.dtype;
    if (type == piece.dtype) return from;
    converted_.resize(count * element_size(type));
    const ConversionLoss loss =
        convert_elements(from.data(), piece.dtype, converted_.data(), type, count);
    state_.loss.infinite += loss.infinite;
    state_.loss.zero += loss.zero;
    std::vector<size_t>& known = state_.infinite_tensors;
    const bool is_known = !known.empty() && known.back() == index;
    if (loss.infinite > 0 && !is_known && known.size() < kMaxInfiniteNames) known.push_back(index);
    return converted_;
  }

  // The same in the file's type. A tensor that is not contiguous is read once and whole.
  std::span<const std::byte> elements(const WeightTensor& piece, uint64_t first, size_t count) {
    const size_t size = element_size(piece.dtype);
    if (piece.contiguous()) {
      read_.resize(count * size);
      read_elements(piece, first, count, read_.data());
      gathered_ = nullptr;
      return read_;
    }
    if (gathered_ != &piece) {
      read_.resize(piece.nbytes());
      read_elements(piece, 0, static_cast<uint64_t>(piece.numel()), read_.data());
      gathered_ = &piece;
    }
    return std::span(read_).subspan(first * size, count * size);
  }

  // The last report comes with the rename, so that 100 % means done.
  void report(const std::string& what) const {
    if (job_.progress && written() < total_) job_.progress(written(), total_, what);
  }

  void save() {
    file_.sync();
    journal_.write(state_, written());
    journaled_ = written();
  }

  void finish() {
    for (const FilePiece& piece : layout_.frame(crcs_in_spec_order())) {
      file_.write(piece.offset, std::as_bytes(std::span(piece.bytes)));
    }
    job_.checkpoint();
    file_.commit();
    journal_.remove();
    if (job_.progress) job_.progress(total_, total_, "");
  }

  std::vector<uint32_t> crcs_in_spec_order() const {
    std::vector<uint32_t> crcs(state_.crcs.size());
    for (size_t i = 0; i < crcs.size(); ++i) crcs[layout_.order()[i]] = state_.crcs[i];
    return crcs;
  }

  bool keep_partial() {
    if (written() == 0) return false;
    try {
      save();
      return true;
    } catch (const Error&) {
      return false;
    }
  }

  void remove() {
    journal_.remove();
    file_.discard();
  }

  const Plan& plan_;
  const WeightLayout& layout_;
  const ConvertOptions& options_;
  const Job& job_;
  PartialFile file_;
  Journal journal_;
  State state_;
  uint64_t total_ = 0;  // tensor data, as all counts here
  uint64_t done_ = 0;   // in completed tensors
  uint64_t journaled_ = 0;
  std::vector<std::byte> read_;
  const WeightTensor* gathered_ = nullptr;  // the tensor that read_ holds, if it is a whole one
  std::vector<std::byte> converted_;
};

bool has_size(const std::string& path, uint64_t size) {
  struct stat info {};
  return ::stat(path.c_str(), &info) == 0 && S_ISREG(info.st_mode) &&
         static_cast<uint64_t>(info.st_size) == size;
}

}  // namespace

ConvertResult convert_weights(const std::string& input, const std::string& output,
                              const ConvertOptions& options, const Job& job) {
  Plan plan = make_plan(input, options, job);
  if (plan.identity == options.completed && has_size(output, plan.layout->file_size())) {
    plan.result.reused = true;
    return plan.result;
  }
  Conversion(plan, output, options, job).run(plan.result);
  return plan.result;
}

}  // namespace jitflux
