#pragma once

#include <tuple>
#include <vector>

#include <ATen/core/Tensor.h>

#include "chain.h"

namespace momentum {

// transforms [..., J, 4, 4] -> [..., E, 3, J, 3]: how the position of effector e changes when joint j turns by a small
// rotation vector (radians) in its own frame.
at::Tensor position_jacobian(
    const Chain& chain, const at::Tensor& transforms, const std::vector<int64_t>& effectors);

struct IkOptions {
  int64_t iterations;
  double damping; // relative to the mean diagonal of J J^T
  double tolerance; // length unit of the offsets
};

// offsets [J, 3], rotations [B, J, 3, 3], targets [B, E, 3] -> rotations [B, J, 3, 3] and the root mean square
// distance to the targets [B].
std::tuple<at::Tensor, at::Tensor> solve_ik(
    const Chain& chain,
    const at::Tensor& offsets,
    const at::Tensor& rotations,
    const std::vector<int64_t>& effectors,
    const at::Tensor& targets,
    const IkOptions& options);

} // namespace momentum
