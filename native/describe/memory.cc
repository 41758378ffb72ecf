#include "describe/memory.h"

#include <algorithm>
#include <variant>

namespace jitflux {

ComponentMemory component_memory(const MemoryRequest& request) {
  std::optional<PartMemory> part;
  std::visit(
      [&](const auto& config) {
        if constexpr (!std::is_same_v<std::decay_t<decltype(config)>, std::monostate>) {
          part = part_memory(config, request);
        }
      },
      request.architecture);
  ComponentMemory memory;
  memory.parameters = request.parameters;
  if (!memory.parameters && part) memory.parameters = part->parameters;
  const double all =
      memory.parameters ? *memory.parameters * request.element() : request.file_bytes;
  memory.resident = all - (part ? part->saved : 0);
  memory.mapped = part && part->copied && request.stored == request.dtype && !request.accelerator &&
                  request.map_weights;
  memory.copied = memory.mapped ? *part->copied : memory.resident;
  if (part) {
    memory.streamed = part->streamed;
    memory.transient = part->transient;
  }
  return memory;
}

PartMemory part_memory(const ClipConfig& config, const MemoryRequest& request) {
  return {.parameters = count_parameters(config),
          .copied = 0,
          .transient = transient_bytes(config, request.work.images, request.element())};
}

PartMemory part_memory(const T5Config& config, const MemoryRequest& request) {
  PartMemory memory = {.parameters = count_parameters(config),
                       .copied = 0,
                       .transient = transient_bytes(config, request.work.text_tokens,
                                                    request.work.images, request.element())};
  if (request.form == WeightForm::kInt8) {
    const QuantizedSize size = quantized_size(config);
    memory.saved = size.parameters * request.element() - size.bytes;
    memory.copied = size.bytes;
  }
  return memory;
}

PartMemory part_memory(const AutoencoderConfig& config, const MemoryRequest& request) {
  const MemoryWork& work = request.work;
  // Latent cells: two along each side of a token. A picture in float32, and in bytes per channel.
  const double decode = decode_bytes(config, 2 * work.rows, 2 * work.cols, request.element());
  const double factor = 2 * static_cast<double>(config.spatial_factor());
  const double pixels = work.rows * factor * work.cols * factor;
  const double picture = work.images * pixels * static_cast<double>(config.picture_channels) * 5;
  return {.parameters = count_parameters(config),
          .transient = std::min(decode, static_cast<double>(kDecodeBudgetBytes)) + picture};
}

}  // namespace jitflux
