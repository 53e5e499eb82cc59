"""Smoke test of pymomentum: values and gradients against plain torch, on every device that torch sees.

Run by the farm in a fresh environment, without the source tree on the path: `python smoke.py`. Any failure is an
AssertionError.
"""

import torch
from pymomentum import __version__, geometry, solver

PARENTS = [-1, 0, 1, 1, 3, -1, 5]  # two trees, one of them branching


def reference_kinematics(offsets: torch.Tensor, rotations: torch.Tensor) -> torch.Tensor:
    """Forward kinematics one joint at a time: [..., J, 3] and [..., J, 3, 3] -> [..., J, 4, 4]."""
    world = []
    for joint, parent in enumerate(PARENTS):
        local = torch.zeros(*rotations.shape[:-3], 4, 4, dtype=offsets.dtype, device=offsets.device)
        local[..., :3, :3] = rotations[..., joint, :, :]
        local[..., :3, 3] = offsets[..., joint, :]
        local[..., 3, 3] = 1
        world.append(local if parent < 0 else world[parent] @ local)
    return torch.stack(world, dim=-3)


def check_rotations(device: torch.device) -> None:
    vectors = torch.randn(5, 7, 3, dtype=torch.float64, device=device) * 2
    vectors[0, 0] = 0
    vectors[0, 1] *= 1e-9
    rotations = geometry.axis_angle_to_matrix(vectors)
    skew = torch.zeros(5, 7, 3, 3, dtype=torch.float64, device=device)
    x, y, z = vectors.unbind(-1)
    skew[..., 0, 1], skew[..., 0, 2], skew[..., 1, 2] = -z, y, -x
    skew[..., 1, 0], skew[..., 2, 0], skew[..., 2, 1] = z, -y, x
    torch.testing.assert_close(rotations, torch.linalg.matrix_exp(skew))

    half = vectors.norm(dim=-1, keepdim=True) / 2
    quaternions = torch.cat([vectors * torch.sinc(half / torch.pi) / 2, half.cos()], dim=-1)
    torch.testing.assert_close(geometry.quaternion_to_matrix(quaternions * 3), rotations)

    probe = torch.tensor([[0.0, 0.0, 0.0], [0.3, -0.2, 0.9]], dtype=torch.float64, device=device, requires_grad=True)
    assert torch.autograd.gradcheck(geometry.axis_angle_to_matrix, (probe,))


def check_kinematics(device: torch.device) -> None:
    joints = len(PARENTS)
    offsets = torch.randn(joints, 3, dtype=torch.float64, device=device, requires_grad=True)
    vectors = torch.randn(4, joints, 3, dtype=torch.float64, device=device, requires_grad=True)

    def ours(offsets: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
        return geometry.forward_kinematics(PARENTS, offsets, geometry.axis_angle_to_matrix(vectors))

    world = ours(offsets, vectors)
    expected = reference_kinematics(offsets, geometry.axis_angle_to_matrix(vectors))
    torch.testing.assert_close(world, expected)
    weight = torch.randn_like(world)
    for got, wanted in zip(
        torch.autograd.grad((world * weight).sum(), (offsets, vectors)),
        torch.autograd.grad((expected * weight).sum(), (offsets, vectors)),
        strict=True,
    ):
        torch.testing.assert_close(got, wanted)
    eye = torch.eye(4, dtype=torch.float64, device=device).expand_as(world)
    torch.testing.assert_close(geometry.invert_rigid(world) @ world, eye)


def check_skinning(device: torch.device) -> None:
    joints, vertices, influences = len(PARENTS), 50, 3
    offsets = torch.randn(joints, 3, dtype=torch.float64, device=device)
    rotations = geometry.axis_angle_to_matrix(torch.randn(2, joints, 3, dtype=torch.float64, device=device))
    rest = geometry.forward_kinematics(
        PARENTS, offsets, torch.eye(3, dtype=torch.float64, device=device).expand(joints, 3, 3)
    )
    world = geometry.forward_kinematics(PARENTS, offsets, rotations).requires_grad_()
    bind = geometry.invert_rigid(rest)
    points = torch.randn(vertices, 3, dtype=torch.float64, device=device)
    indices = torch.randint(joints, (vertices, influences), device=device)
    weights = torch.rand(vertices, influences, dtype=torch.float64, device=device).softmax(-1)

    skinned = geometry.linear_blend_skinning(world, bind, points, indices, weights)
    homogeneous = torch.cat([points, torch.ones_like(points[:, :1])], dim=-1)
    each = torch.einsum("bjrc,vc->bjvr", world @ bind, homogeneous)[..., :3]
    expected = sum(
        weights[:, k, None] * each[:, indices[:, k], torch.arange(vertices, device=device)] for k in range(influences)
    )
    torch.testing.assert_close(skinned, expected)
    (ours,) = torch.autograd.grad(skinned.square().sum(), world, retain_graph=True)
    (theirs,) = torch.autograd.grad(expected.square().sum(), world)
    torch.testing.assert_close(ours, theirs)
    # The rest pose leaves every vertex where it is.
    torch.testing.assert_close(geometry.linear_blend_skinning(rest, bind, points, indices, weights), points)


def check_skinning_kernel(device: torch.device) -> None:
    """What the kernel computes on a GPU against what the operators of torch compute on the CPU."""

    def skinned(on: torch.device, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
        """The vertices, and the gradients of what can have one."""
        joints, bind, points, indices, weights, pull = [tensor.clone().to(on) for tensor in inputs]
        free = [tensor.requires_grad_() for tensor in (joints, bind, points, weights)]
        moved = geometry.linear_blend_skinning(joints, bind, points, indices, weights)
        gradients = torch.autograd.grad(moved, free, pull)
        return [result.cpu() for result in (moved.detach(), *gradients)]

    # More vertices than a block has threads, and no multiple of that; a batch of two dimensions, one element, none.
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 2e-3)):
        for batch, vertices in (((2, 3), 1003), ((), 5), ((0,), 4), ((3,), 0)):
            joints, influences = len(PARENTS), 4
            inputs = [torch.randn(*batch, joints, 4, 4, dtype=dtype), torch.randn(joints, 4, 4, dtype=dtype)]
            inputs += [torch.randn(vertices, 3, dtype=dtype), torch.randint(joints, (vertices, influences))]
            inputs += [torch.rand(vertices, influences, dtype=dtype), torch.randn(*batch, vertices, 3, dtype=dtype)]
            of_cpu = skinned(torch.device("cpu"), inputs)
            for got, wanted in zip(skinned(device, inputs), of_cpu, strict=True):
                torch.testing.assert_close(got, wanted, rtol=tolerance, atol=tolerance)

    # Gradients of gradients, and tensors that are not contiguous.
    world = torch.randn(2, 4, 4, 3, dtype=torch.float64, device=device).movedim(-1, 1).requires_grad_()
    bind = torch.randn(3, 4, 4, dtype=torch.float64, device=device, requires_grad=True)
    points = torch.randn(3, 2, dtype=torch.float64, device=device).T.requires_grad_()
    indices = torch.tensor([[0, 2], [1, 1]], device=device)
    weights = torch.rand(2, 2, dtype=torch.float64, device=device, requires_grad=True)

    def skinning(*inputs: torch.Tensor) -> torch.Tensor:
        return geometry.linear_blend_skinning(inputs[0], inputs[1], inputs[2], indices, inputs[3])

    # The gradient comes from a kernel, and from torch's operators where it is to be differentiated again.
    moved = skinning(world, bind, points, weights).sin().sum()
    by_kernel = torch.autograd.grad(moved, (world, bind, points, weights), retain_graph=True)
    by_operators = torch.autograd.grad(moved, (world, bind, points, weights), create_graph=True)
    torch.testing.assert_close(by_kernel, by_operators)

    # The kernel adds up in no fixed order.
    assert torch.autograd.gradcheck(skinning, (world, bind, points, weights), nondet_tol=1e-9)
    assert torch.autograd.gradgradcheck(skinning, (world, bind, points, weights), nondet_tol=1e-9)


def check_solver(device: torch.device) -> None:
    joints, effectors = len(PARENTS), [2, 4, 6]
    offsets = torch.randn(joints, 3, dtype=torch.float64, device=device)
    goal = geometry.axis_angle_to_matrix(torch.randn(6, joints, 3, dtype=torch.float64, device=device) * 0.4)
    targets = geometry.forward_kinematics(PARENTS, offsets, goal)[:, effectors, :3, 3]
    start = geometry.axis_angle_to_matrix(torch.zeros(6, joints, 3, dtype=torch.float64, device=device))
    rotations, distance = solver.solve_ik(PARENTS, offsets, start, effectors, targets, iterations=60, tolerance=1e-8)
    reached = reference_kinematics(offsets, rotations)[:, effectors, :3, 3]
    torch.testing.assert_close(reached, targets, atol=1e-6, rtol=0)
    assert bool((distance < 1e-6).all()), distance

    # The Jacobian against automatic differentiation of the reference.
    def moved(turn: torch.Tensor) -> torch.Tensor:
        return reference_kinematics(offsets, goal[0] @ geometry.axis_angle_to_matrix(turn))[effectors, :3, 3]

    wanted = torch.autograd.functional.jacobian(moved, torch.zeros(joints, 3, dtype=torch.float64, device=device))
    world = geometry.forward_kinematics(PARENTS, offsets, goal[0])
    torch.testing.assert_close(solver.position_jacobian(PARENTS, world, effectors), wanted)

    # Gradients run through the iterations.
    free = targets.clone().requires_grad_()
    solved, _ = solver.solve_ik(PARENTS, offsets, start, effectors, free, iterations=2)
    (gradient,) = torch.autograd.grad(solved.square().sum() + solved[..., 0, 1].sum(), free)
    assert gradient.isfinite().all() and gradient.abs().sum() > 0

    # A target that is reached from the start has a distance of zero, and a gradient that is a number.
    there = reference_kinematics(offsets, start)[:, effectors, :3, 3].requires_grad_()
    _, distance = solver.solve_ik(PARENTS, offsets, start, effectors, there)
    (gradient,) = torch.autograd.grad(distance.sum(), there)
    assert bool((distance == 0).all()) and bool(gradient.isfinite().all())


def check_errors(device: torch.device) -> None:
    def refused(error: type[Exception], words: str, call: object, *arguments: object) -> None:
        try:
            call(*arguments)  # type: ignore[operator]
        except error as caught:
            assert words in str(caught), caught
        else:
            raise AssertionError(f"{call} took {arguments}")

    good = torch.zeros(2, 3, device=device)
    turn = torch.eye(3, device=device).expand(2, 3, 3)
    refused(ValueError, "axis_angle", geometry.axis_angle_to_matrix, torch.zeros(2, 4, device=device))
    refused(TypeError, "floating point", geometry.axis_angle_to_matrix, torch.zeros(3, dtype=torch.int64))
    refused(ValueError, "parents[1]", geometry.forward_kinematics, [-1, 1], good, turn)
    refused(ValueError, "offsets", geometry.forward_kinematics, [-1, 0, 1], good, turn)
    refused(TypeError, "one dtype", geometry.forward_kinematics, [-1, 0], good, turn.double())
    refused(
        ValueError,
        "rotations and offsets",
        geometry.forward_kinematics,
        [-1, 0],
        good.expand(2, 2, 3),
        turn.expand(4, 2, 3, 3),
    )
    refused(ValueError, "offsets", solver.solve_ik, [-1, 0], good.expand(5, 2, 3), turn[None], [1], good[None, :1])
    bind = torch.eye(4, device=device).expand(2, 4, 4)
    joint = torch.tensor([[0, 2], [0, 0]], device=device)
    refused(IndexError, "indices has 2", geometry.linear_blend_skinning, bind, bind, good, joint, good[:, :2])
    refused(IndexError, "effectors[0]", solver.solve_ik, [-1, 0], good, turn[None], [2], good[None, :1])


def main() -> None:
    torch.manual_seed(0)
    devices = [torch.device("cpu")]
    devices += [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    for device in devices:
        for check in (check_rotations, check_kinematics, check_skinning, check_solver, check_errors):
            check(device)
        if geometry.has_cuda and device.type == "cuda":
            check_skinning_kernel(device)
    kernel = ""
    if geometry.has_cuda:
        ran = len(devices) > 1
        kernel = ", with the CUDA kernel" if ran else "; no GPU is here, so the CUDA kernel did not run"
    print(f"pymomentum {__version__}: values and gradients agree on {', '.join(map(str, devices))}{kernel}")


if __name__ == "__main__":
    main()
