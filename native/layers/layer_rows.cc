#include "layers/layer_rows.h"

namespace jitflux {

LayerInput LayerInput::rows(int64_t begin, int64_t count) const {
  return {values.narrow(0, begin, count),
          row_scale.defined() ? row_scale.narrow(0, begin, count) : row_scale};
}

LayerOutput LayerOutput::rows(int64_t begin, int64_t count) const {
  return {values.narrow(0, begin, count),
          row_scale.defined() ? row_scale.narrow(0, begin, count) : row_scale, bias};
}

kernels::Rescale LayerOutput::rescale(int64_t row, int64_t column) const {
  if (!row_scale.defined()) return {};
  return {row_scale.const_data_ptr<float>() + row, bias.const_data_ptr<float>() + column};
}

}  // namespace jitflux
