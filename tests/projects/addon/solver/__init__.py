"""The add-on, which computes with torch."""

import torch  # noqa: F401
from acme.solver._solver import energy

__all__ = ["energy"]
