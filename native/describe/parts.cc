#include "describe/parts.h"

#include <array>
#include <utility>

#include "weights/reader_util.h"

namespace jitflux {

namespace {

using File = std::shared_ptr<const WeightFile>;

struct Part {
  const char* name;
  bool (*recognises)(const WeightFile& file);
  // Fills everything but the name; throws kWeightsMismatch.
  void (*describe)(const File& file, PartDescription* found);
};

void describe_transformer(const File& file, PartDescription* found) {
  const FluxParameters parameters = FluxParameters::describe(file);
  found->layout = parameters.layout();
  found->prefix = parameters.prefix();
  found->architecture = parameters.config();
  found->parameters = parameters.elements();
  found->extra = parameters.extra();
}

template <typename Weights>
void describe_by_shapes(const File& file, PartDescription* found) {
  Weights weights = Weights::resolve(file, std::nullopt);
  found->prefix = weights.parameters.prefix();
  found->parameters = weights.parameters.required_elements();
  found->extra = weights.parameters.extra();
  found->architecture = std::move(weights.config);
}

void describe_autoencoder(const File& file, PartDescription* found) {
  describe_by_shapes<AutoencoderWeights>(file, found);
  found->layout = std::get<AutoencoderConfig>(found->architecture).names;
}

// In the order in which they are looked for: a whole checkpoint is taken for its transformer.
constexpr std::array kParts = {
    Part{"transformer", FluxParameters::recognises, describe_transformer},
    Part{"autoencoder", AutoencoderWeights::recognises, describe_autoencoder},
    Part{"clip", ClipWeights::recognises, describe_by_shapes<ClipWeights>},
    Part{"t5", T5Weights::recognises, describe_by_shapes<T5Weights>},
};

// Why a file without a known part is none, if its names tell.
std::optional<Error> other_kind(const WeightFile& file) {
  try {
    for (const WeightTensor& tensor : file.tensors()) refuse_other_kind(file.path(), tensor.name);
    return {};
  } catch (const Error& error) {
    return error;
  }
}

}  // namespace

PartDescription describe_part(const File& file, const Job& job) {
  PartDescription found;
  for (const Part& part : kParts) {
    job.checkpoint();
    if (!part.recognises(*file)) continue;
    found.part = part.name;
    try {
      part.describe(file, &found);
      return found;
    } catch (const Error& error) {
      found.problem = error;
      break;
    }
  }
  if (found.part.empty()) {
    found.problem = other_kind(*file);
  }
  if (!found.problem) {
    found.problem = Error(error_code::kWeightsMismatch,
                          printable_path(file->path()) +
                              ": no parameters of a FLUX transformer, CLIP, T5 or autoencoder",
                          {{"path", file->path()}});
  }
  found.parameters = 0;
  for (const WeightTensor& tensor : file->tensors()) {
    found.parameters += static_cast<uint64_t>(tensor.numel());
  }
  return found;
}

}  // namespace jitflux
