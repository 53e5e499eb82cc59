import torch

from exact._core import built, first

__all__ = ["built", "first", "torch"]
