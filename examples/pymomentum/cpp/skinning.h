#pragma once

#include <ATen/core/Tensor.h>

namespace momentum {

// transforms [..., J, 4, 4], inverse_bind [J, 4, 4], vertices [V, 3], indices [V, K] int64, weights [V, K]
// -> [..., V, 3].
at::Tensor linear_blend_skinning(
    const at::Tensor& transforms,
    const at::Tensor& inverse_bind,
    const at::Tensor& vertices,
    const at::Tensor& indices,
    const at::Tensor& weights);

// Whether the CUDA kernel was compiled in, which then takes float32 and float64 on GPUs. Else at:: operators do.
constexpr bool has_cuda() {
#ifdef PYMOMENTUM_CUDA
  return true;
#else
  return false;
#endif
}

} // namespace momentum
