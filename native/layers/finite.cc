#include "layers/finite.h"

#include <ATen/ops/isfinite.h>

#include <string>

#include "base/error.h"

namespace jitflux {

namespace {

// All bits of the exponent are set in NaN and infinities, and in nothing else. No early end, which
// would keep compilers from vectorising the loop: the rule is that there is none.
template <typename Bits>
bool all_finite(const Bits* values, int64_t count, Bits exponent) {
  Bits found = 0;
  for (int64_t i = 0; i < count; ++i) found |= (values[i] & exponent) == exponent ? 1 : 0;
  return found == 0;
}

bool all_finite_on_host(const at::Tensor& image) {
  const void* data = image.const_data_ptr();
  const int64_t count = image.numel();
  switch (image.scalar_type()) {
    case at::kDouble:
      return all_finite(static_cast<const uint64_t*>(data), count, uint64_t{0x7FF} << 52);
    case at::kFloat:
      return all_finite(static_cast<const uint32_t*>(data), count, uint32_t{0x7F800000});
    case at::kBFloat16:
      return all_finite(static_cast<const uint16_t*>(data), count, uint16_t{0x7F80});
    case at::kHalf:
      return all_finite(static_cast<const uint16_t*>(data), count, uint16_t{0x7C00});
    default:
      return at::isfinite(image).all().item<bool>();
  }
}

}  // namespace

std::vector<int32_t> not_finite_images(const at::Tensor& given) {
  std::vector<int32_t> found;
  if (!at::isFloatingType(given.scalar_type()) || given.dim() < 1) return found;
  const at::Tensor values = given.contiguous();
  at::Tensor finite;
  // On the accelerator: a byte per image comes back.
  if (!values.device().is_cpu()) finite = at::isfinite(values).flatten(1).all(1).cpu();
  for (int64_t image = 0; image < values.size(0); ++image) {
    const bool good = finite.defined() ? finite.const_data_ptr<bool>()[image]
                                       : all_finite_on_host(values.select(0, image));
    if (!good) found.push_back(static_cast<int32_t>(image));
  }
  return found;
}

void expect_finite(const at::Tensor& values, const char* what) {
  const std::vector<int32_t> found = not_finite_images(values);
  if (found.empty()) return;
  throw Error(error_code::kNotFinite,
              "NaN or infinite values in the " + std::string(what) + " of image " +
                  std::to_string(found.front() + 1) + " of " + std::to_string(values.size(0)) +
                  " (a damaged weight, or numbers too large for their type)",
              {{"what", std::string(what)}, {"image", static_cast<double>(found.front())}});
}

}  // namespace jitflux
