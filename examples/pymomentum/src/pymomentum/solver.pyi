from collections.abc import Sequence

from torch import Tensor

def position_jacobian(parents: Sequence[int], transforms: Tensor, effectors: Sequence[int]) -> Tensor: ...
def solve_ik(
    parents: Sequence[int],
    offsets: Tensor,
    rotations: Tensor,
    effectors: Sequence[int],
    targets: Tensor,
    *,
    iterations: int = 30,
    damping: float = 1e-2,
    tolerance: float = 1e-5,
) -> tuple[Tensor, Tensor]: ...
