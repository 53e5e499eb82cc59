import torch  # first: it loads the CUDA libraries

from cuda_probe._C import compiled_with, runtime_version, scale

__all__ = ["compiled_with", "runtime_version", "scale", "torch"]
