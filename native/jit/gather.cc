#include "jit/gather.h"

#include <ATen/ops/empty.h>

#include <cstring>

#include "jit/device_lists.h"
#include "runtime/device.h"
#include "runtime/parallel.h"

namespace jitflux::jit {

at::Tensor gather(const at::Tensor& latents, const TokenLists& anchors) {
  const int64_t images = latents.size(0);
  const int64_t tokens = latents.size(1);
  const int64_t channels = latents.size(2);
  at::Tensor out = at::empty({images, anchors.count, channels}, latents.options());
  const float* src = latents.const_data_ptr<float>();
  float* dst = out.mutable_data_ptr<float>();
  const auto* device = current_kernels();
  const DeviceLists lists(anchors);
  for (int64_t b = 0; b < images; ++b) {
    const int32_t* list = lists.of(b);
    if (device != nullptr) {
      device->gather_rows(src + b * tokens * channels, list, dst + b * anchors.count * channels,
                          anchors.count, channels, current_stream());
      continue;
    }
    parallel_rows(anchors.count, channels, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        std::memcpy(dst + (b * anchors.count + i) * channels,
                    src + (b * tokens + list[i]) * channels,
                    static_cast<size_t>(channels) * sizeof(float));
      }
    });
  }
  return out;
}

}  // namespace jitflux::jit
