import torch  # noqa: F401

from ._core import threads  # noqa: F401
