#include "ik.h"

#include <ATen/ops/eye.h>
#include <ATen/ops/full.h>
#include <ATen/ops/linalg_solve.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/where.h>

#include "checks.h"
#include "rotation.h"

namespace momentum {

namespace {

at::Tensor indices_of(const std::vector<int64_t>& values, const at::Tensor& like) {
  return at::tensor(values, at::TensorOptions().dtype(at::kLong).device(like.device()));
}

at::Tensor positions(const at::Tensor& transforms) {
  return transforms.narrow(-2, 0, 3).select(-1, 3);
}

at::Tensor mean_square(const at::Tensor& residual) {
  return (residual * residual).sum(-1).mean(-1);
}

// d p_e = (R_j d) x (p_e - p_j) = -[p_e - p_j]x R_j d for every joint j that moves effector e, and nothing for the others.
at::Tensor effector_jacobian(const at::Tensor& transforms, const at::Tensor& effectors, const at::Tensor& moved) {
  const auto origin = positions(transforms);
  const auto arm = origin.index_select(-2, effectors).unsqueeze(-2) - origin.unsqueeze(-3);
  const auto rotation = transforms.narrow(-2, 0, 3).narrow(-1, 0, 3).unsqueeze(-4);
  const auto blocks = -at::matmul(skew(arm), rotation) * moved.unsqueeze(-1).unsqueeze(-1);
  return blocks.transpose(-3, -2); // [..., E, J, 3, 3] -> [..., E, 3, J, 3]
}

} // namespace

at::Tensor position_jacobian(
    const Chain& chain, const at::Tensor& transforms, const std::vector<int64_t>& effectors) {
  check_dims(transforms, 3, "transforms", "[..., J, 4, 4]");
  check_size(transforms, -1, 4, "transforms", "[..., J, 4, 4]");
  check_size(transforms, -2, 4, "transforms", "[..., J, 4, 4]");
  check_size(transforms, -3, chain.size(), "transforms", "[..., J, 4, 4] with J = len(parents)");
  check_floating(transforms, "transforms");
  const auto moved = chain.moves(effectors, transforms.device()).to(transforms.scalar_type());
  return effector_jacobian(transforms, indices_of(effectors, transforms), moved);
}

std::tuple<at::Tensor, at::Tensor> solve_ik(
    const Chain& chain,
    const at::Tensor& offsets,
    const at::Tensor& rotations,
    const std::vector<int64_t>& effectors,
    const at::Tensor& targets,
    const IkOptions& options) {
  TORCH_CHECK_VALUE(rotations.dim() == 4, "rotations must have shape [B, J, 3, 3], got ", rotations.sym_sizes());
  TORCH_CHECK_VALUE(targets.dim() == 3, "targets must have shape [B, E, 3], got ", targets.sym_sizes());
  check_size(targets, -1, 3, "targets", "[B, E, 3]");
  check_size(targets, -2, static_cast<int64_t>(effectors.size()), "targets", "[B, E, 3] with E = len(effectors)");
  check_size(targets, 0, rotations.sym_size(0), "targets", "[B, E, 3] with the B of rotations");
  check_alike(targets, offsets, "targets", "offsets");
  TORCH_CHECK_VALUE(offsets.dim() <= 3, "offsets must have shape [J, 3] or [B, J, 3], got ", offsets.sym_sizes());
  if (offsets.dim() == 3) {
    check_size(offsets, 0, rotations.sym_size(0), "offsets", "[B, J, 3] with the B of rotations, or [J, 3]");
  }
  TORCH_CHECK_VALUE(!effectors.empty(), "effectors must name at least one joint");
  TORCH_CHECK_VALUE(options.iterations >= 0, "iterations must not be negative, got ", options.iterations);
  TORCH_CHECK_VALUE(options.damping > 0, "damping must be positive, got ", options.damping);

  const auto batch = rotations.size(0);
  const auto rows = static_cast<int64_t>(effectors.size()) * 3;
  const auto unknowns = chain.size() * 3;
  const auto moved = chain.moves(effectors, offsets.device()).to(offsets.scalar_type());
  const auto picked = indices_of(effectors, offsets);
  const auto identity = at::eye(rows, offsets.options());
  const auto residual_of = [&](const at::Tensor& transforms) {
    return targets - positions(transforms).index_select(-2, picked);
  };

  auto current = rotations;
  auto transforms = forward_kinematics(chain, offsets, current);
  auto residual = residual_of(transforms);
  auto error = mean_square(residual);
  auto damping = at::full({batch, 1, 1}, options.damping, offsets.options());
  for (int64_t i = 0; i < options.iterations; ++i) {
    if ((error <= options.tolerance * options.tolerance).all().item<bool>()) {
      break;
    }
    // The step J^T (J J^T + m I)^-1 r equals (J^T J + m I)^-1 J^T r and solves for 3E unknowns instead of 3J.
    const auto jacobian = effector_jacobian(transforms, picked, moved).reshape({batch, rows, unknowns});
    const auto normal = at::matmul(jacobian, jacobian.transpose(-1, -2));
    const auto scale = normal.diagonal(0, -2, -1).mean(-1).clamp_min(1e-12).unsqueeze(-1).unsqueeze(-1);
    const auto dual =
        at::linalg_solve(normal + damping * scale * identity, residual.reshape({batch, rows, 1}));
    const auto step = at::matmul(jacobian.transpose(-1, -2), dual).reshape({batch, chain.size(), 3});

    const auto tried = at::matmul(current, axis_angle_to_matrix(step));
    const auto tried_transforms = forward_kinematics(chain, offsets, tried);
    const auto tried_residual = residual_of(tried_transforms);
    const auto tried_error = mean_square(tried_residual);
    // Levenberg's rule, each problem of the batch for itself: keep what helped, and trust the model less after a miss.
    const auto better = (tried_error < error).unsqueeze(-1).unsqueeze(-1);
    damping = at::where(better, damping * 0.3, damping * 4).clamp(1e-9, 1e9);
    current = at::where(better.unsqueeze(-1), tried, current);
    transforms = at::where(better.unsqueeze(-1), tried_transforms, transforms);
    residual = at::where(better, tried_residual, residual);
    error = at::where(better.squeeze(-1).squeeze(-1), tried_error, error);
  }
  // The root of zero has no gradient; a target that was reached exactly gets zero instead of nan.
  const auto reached = error == 0;
  return {current, at::where(reached, error, at::where(reached, at::ones_like(error), error).sqrt())};
}

} // namespace momentum
