#pragma once

#include <ATen/core/Tensor.h>

namespace momentum {

// [..., 3] -> [..., 3, 3]: the matrix K with K w = v x w.
at::Tensor skew(const at::Tensor& vector);

// [..., 3], radians -> [..., 3, 3]: Rodrigues' formula, with finite gradients of every order at zero.
at::Tensor axis_angle_to_matrix(const at::Tensor& axis_angle);

// [..., 4] as (x, y, z, w), normalised on the way -> [..., 3, 3].
at::Tensor quaternion_to_matrix(const at::Tensor& quaternion);

// [..., 4, 4] -> [..., 4, 4]: the inverse of rigid transforms, without a matrix inversion.
at::Tensor invert_rigid(const at::Tensor& transforms);

// [..., 3, 3] and [..., 3] -> [..., 4, 4]; batch dimensions broadcast.
at::Tensor compose_rigid(const at::Tensor& rotation, const at::Tensor& translation);

} // namespace momentum
