#include "weights/weight_layout.h"

#include "weights/reader_util.h"

namespace jitflux {

uint64_t TensorSpec::nbytes() const {
  return static_cast<uint64_t>(checked_numel(shape).value()) * element_size(dtype);
}

}  // namespace jitflux
