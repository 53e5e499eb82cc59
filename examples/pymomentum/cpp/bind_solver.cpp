#include <torch/extension.h>

#include "chain.h"
#include "ik.h"

namespace py = pybind11;

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  m.doc() = "Inverse kinematics by damped Gauss-Newton, batched and differentiable through its iterations.";

  m.def(
      "position_jacobian",
      torch::wrap_pybind_function_no_gil(
          [](std::vector<int64_t> parents, const at::Tensor& transforms, const std::vector<int64_t>& effectors) {
            return momentum::position_jacobian(momentum::Chain(std::move(parents)), transforms, effectors);
          }),
      py::arg("parents"), py::arg("transforms"), py::arg("effectors"),
      R"(How the effectors' positions change when joints turn.

Args:
    parents: J ints; parents[j] < j is the joint that j hangs on, -1 for a root.
    transforms: float tensor [..., J, 4, 4]; global transforms, as geometry.forward_kinematics returns them.
    effectors: E ints; the joints whose positions are meant.

Returns:
    float tensor [..., E, 3, J, 3]: length unit of the transforms per radian, for a small rotation vector applied to
    joint j in its own frame (R_j <- R_j exp(d)).

Raises:
    ValueError: a shape does not fit.
    IndexError: an effector is not a joint.)");

  m.def(
      "solve_ik",
      torch::wrap_pybind_function_no_gil([](std::vector<int64_t> parents,
                                            const at::Tensor& offsets,
                                            const at::Tensor& rotations,
                                            const std::vector<int64_t>& effectors,
                                            const at::Tensor& targets,
                                            int64_t iterations,
                                            double damping,
                                            double tolerance) {
        return momentum::solve_ik(momentum::Chain(std::move(parents)), offsets, rotations, effectors, targets,
                                  {iterations, damping, tolerance});
      }),
      py::arg("parents"), py::arg("offsets"), py::arg("rotations"), py::arg("effectors"), py::arg("targets"),
      py::kw_only(), py::arg("iterations") = 30, py::arg("damping") = 1e-2, py::arg("tolerance") = 1e-5,
      R"(Joint rotations that bring effectors to their targets.

Damped Gauss-Newton (Levenberg-Marquardt) on the rotations themselves, so that no angle wraps. Every problem of the
batch has its own damping. Differentiable in offsets, rotations and targets through the iterations run.

Args:
    parents: J ints; parents[j] < j is the joint that j hangs on, -1 for a root.
    offsets: float tensor [J, 3] or [B, J, 3]; each joint's origin in its parent's frame.
    rotations: float tensor [B, J, 3, 3]; where to start from.
    effectors: E ints; the joints to be brought to the targets.
    targets: float tensor [B, E, 3]; global positions, in the length unit of offsets.
    iterations: the most steps to take.
    damping: the first damping, relative to the mean diagonal of J J^T; greater than 0.
    tolerance: stop when every root mean square distance is at most this, in the length unit of offsets.

Returns:
    (rotations [B, J, 3, 3], distance [B]): the solution, and the root mean square distance left.

Raises:
    ValueError: a shape or an option does not fit.
    IndexError: an effector is not a joint.)");
}
