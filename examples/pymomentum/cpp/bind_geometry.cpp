#include <torch/extension.h>

#include "chain.h"
#include "rotation.h"
#include "skinning.h"

namespace py = pybind11;

// wrap_pybind_function_no_gil turns torch's error types into Python's and lets other threads run meanwhile.
PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  m.doc() = "Rotations, forward kinematics and skinning. Batched over leading dimensions, differentiable in every "
            "floating-point argument, on the device of the tensors given.";

  // Whether linear_blend_skinning has a CUDA kernel of its own; without it, torch's operators run on the GPU.
  m.attr("has_cuda") = momentum::has_cuda();

  m.def("axis_angle_to_matrix", torch::wrap_pybind_function_no_gil(momentum::axis_angle_to_matrix),
        py::arg("axis_angle"), R"(Rotation matrices of rotation vectors.

Args:
    axis_angle: float tensor [..., 3]; direction is the axis, length the angle in radians.

Returns:
    float tensor [..., 3, 3]. Its gradient is finite at zero rotation.

Raises:
    ValueError: the last dimension is not 3.
    TypeError: the tensor is not floating point.)");

  m.def("quaternion_to_matrix", torch::wrap_pybind_function_no_gil(momentum::quaternion_to_matrix),
        py::arg("quaternion"), R"(Rotation matrices of quaternions.

Args:
    quaternion: float tensor [..., 4] as (x, y, z, w); need not be normalised, must not be zero.

Returns:
    float tensor [..., 3, 3].

Raises:
    ValueError: the last dimension is not 4.
    TypeError: the tensor is not floating point.)");

  m.def("invert_rigid", torch::wrap_pybind_function_no_gil(momentum::invert_rigid), py::arg("transforms"),
        R"(Inverse of rigid transforms (rotation and translation, no scale).

Args:
    transforms: float tensor [..., 4, 4].

Returns:
    float tensor [..., 4, 4].

Raises:
    ValueError: the last two dimensions are not 4 by 4.
    TypeError: the tensor is not floating point.)");

  m.def(
      "forward_kinematics",
      torch::wrap_pybind_function_no_gil(
          [](std::vector<int64_t> parents, const at::Tensor& offsets, const at::Tensor& rotations) {
            return momentum::forward_kinematics(momentum::Chain(std::move(parents)), offsets, rotations);
          }),
      py::arg("parents"), py::arg("offsets"), py::arg("rotations"),
      R"(Where every joint of a chain stands.

Args:
    parents: J ints; parents[j] < j is the joint that j hangs on, -1 for a root.
    offsets: float tensor [..., J, 3]; each joint's origin in its parent's frame, in any length unit.
    rotations: float tensor [..., J, 3, 3]; each joint's rotation in its parent's frame.

Returns:
    float tensor [..., J, 4, 4]: global transforms, in the length unit of offsets. Leading dimensions broadcast.

Raises:
    ValueError: parents is not a tree in order, or a shape does not fit.
    TypeError: dtypes differ or are not floating point.)");

  m.def("linear_blend_skinning", torch::wrap_pybind_function_no_gil(momentum::linear_blend_skinning),
        py::arg("transforms"), py::arg("inverse_bind"), py::arg("vertices"), py::arg("indices"), py::arg("weights"),
        R"(Vertices of a mesh moved by the joints they are bound to.

Args:
    transforms: float tensor [..., J, 4, 4]; global transforms of the joints, as forward_kinematics returns them.
    inverse_bind: float tensor [J, 4, 4]; inverse global transforms of the joints in the rest pose.
    vertices: float tensor [V, 3]; the rest pose, in the length unit of transforms.
    indices: int64 tensor [V, K]; the joints each vertex is bound to.
    weights: float tensor [V, K]; their weights, which should sum to 1 over K.

Returns:
    float tensor [..., V, 3].

Raises:
    ValueError: a shape does not fit.
    TypeError: dtypes differ, or indices is not int64.
    IndexError: an index is not that of a joint.)");
}
