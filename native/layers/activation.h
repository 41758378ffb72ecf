// Activation types of the models, and how the kernels see them.
#pragma once

#include <ATen/core/Tensor.h>

#include "kernels/kernels.h"

namespace jitflux {

template <typename T>
struct Activation;
template <>
struct Activation<float> {
  using Kernel = float;
};
template <>
struct Activation<at::BFloat16> {
  using Kernel = kernels::BFloat16Bits;
};

template <typename T>
using KernelType = typename Activation<T>::Kernel;

template <typename T>
KernelType<T>* data(const at::Tensor& t) {
  return reinterpret_cast<KernelType<T>*>(t.mutable_data_ptr<T>());
}

template <typename T>
const KernelType<T>* const_data(const at::Tensor& t) {
  return reinterpret_cast<const KernelType<T>*>(t.const_data_ptr<T>());
}

template <typename T>
const kernels::RowKernels<KernelType<T>>& row_kernels() {
  return kernels::table().rows<KernelType<T>>();
}

}  // namespace jitflux
