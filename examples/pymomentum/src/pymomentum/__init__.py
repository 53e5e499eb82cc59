"""Differentiable, batched kinematics on torch tensors.

`pymomentum.geometry` has rotations, forward kinematics of joint chains and linear blend skinning,
`pymomentum.solver` has inverse kinematics. Both are C++ on at::Tensor.
"""

import torch as _torch  # noqa: F401  (loads the torch libraries that the extensions need)

from ._version import __version__ as __version__
