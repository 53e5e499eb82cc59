#include "rotation.h"

#include <ATen/ExpandUtils.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/sin.h>
#include <ATen/ops/sqrt.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include "checks.h"

namespace momentum {

namespace {

// sin(x) / x of x^2 = `squared`. Below `small` the Taylor series stands in; the branch not taken is fed 1, so that its
// gradient is finite too (0 * inf would be nan in the backward pass of where).
at::Tensor sinc_of_square(const at::Tensor& squared) {
  const double small = squared.scalar_type() == at::kDouble ? 1e-6 : 1e-3;
  const auto is_small = squared < small;
  const auto series = 1 - squared * (1.0 / 6) * (1 - squared * (1.0 / 20));
  const auto angle = at::sqrt(at::where(is_small, at::ones_like(squared), squared));
  return at::where(is_small, series, at::sin(angle) / angle);
}

} // namespace

at::Tensor skew(const at::Tensor& vector) {
  const auto x = vector.select(-1, 0), y = vector.select(-1, 1), z = vector.select(-1, 2);
  const auto zero = at::zeros_like(x);
  auto sizes = vector.sizes().vec();
  sizes.push_back(3);
  return at::stack({zero, -z, y, z, zero, -x, -y, x, zero}, -1).reshape(sizes);
}

at::Tensor axis_angle_to_matrix(const at::Tensor& axis_angle) {
  check_dims(axis_angle, 1, "axis_angle", "[..., 3]");
  check_size(axis_angle, -1, 3, "axis_angle", "[..., 3]");
  check_floating(axis_angle, "axis_angle");
  // R = I + sinc(t) K + sinc(t/2)^2 / 2 K^2: the second factor is (1 - cos t) / t^2 without its cancellation.
  const auto squared = (axis_angle * axis_angle).sum(-1, /*keepdim=*/true).unsqueeze(-1);
  const auto half = sinc_of_square(squared * 0.25);
  const auto k = skew(axis_angle);
  const auto identity = at::eye(3, axis_angle.options());
  return identity + sinc_of_square(squared) * k + 0.5 * half * half * at::matmul(k, k);
}

at::Tensor quaternion_to_matrix(const at::Tensor& quaternion) {
  check_dims(quaternion, 1, "quaternion", "[..., 4]");
  check_size(quaternion, -1, 4, "quaternion", "[..., 4]");
  check_floating(quaternion, "quaternion");
  const auto unit = quaternion / quaternion.norm(2, -1, /*keepdim=*/true);
  const auto k = skew(unit.narrow(-1, 0, 3));
  const auto w = unit.select(-1, 3).unsqueeze(-1).unsqueeze(-1);
  return at::eye(3, quaternion.options()) + 2 * (w * k + at::matmul(k, k));
}

at::Tensor compose_rigid(const at::Tensor& rotation, const at::Tensor& translation) {
  auto batch = at::infer_size(
      rotation.sizes().slice(0, rotation.dim() - 2), translation.sizes().slice(0, translation.dim() - 1));
  const auto sized = [&batch](std::initializer_list<int64_t> tail) {
    auto sizes = batch;
    sizes.insert(sizes.end(), tail);
    return std::vector<int64_t>(sizes.begin(), sizes.end());
  };
  const auto top = at::cat({rotation.expand(sized({3, 3})), translation.unsqueeze(-1).expand(sized({3, 1}))}, -1);
  const auto bottom = at::eye(4, rotation.options()).narrow(0, 3, 1).expand(sized({1, 4}));
  return at::cat({top, bottom}, -2);
}

at::Tensor invert_rigid(const at::Tensor& transforms) {
  check_dims(transforms, 2, "transforms", "[..., 4, 4]");
  check_size(transforms, -1, 4, "transforms", "[..., 4, 4]");
  check_size(transforms, -2, 4, "transforms", "[..., 4, 4]");
  check_floating(transforms, "transforms");
  const auto inverse = transforms.narrow(-2, 0, 3).narrow(-1, 0, 3).transpose(-1, -2);
  const auto translation = transforms.narrow(-2, 0, 3).select(-1, 3);
  return compose_rigid(inverse, -at::matmul(inverse, translation.unsqueeze(-1)).squeeze(-1));
}

} // namespace momentum
