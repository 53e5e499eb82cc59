"""Runs the kernel where a GPU is; elsewhere the library must load, with the CUDA runtime that torch brought."""

import cuda_probe
import torch

assert cuda_probe.runtime_version() // 1000 == int(torch.version.cuda.split(".")[0])
if torch.cuda.is_available():
    ones = torch.ones(1000, device="cuda")
    assert torch.equal(cuda_probe.scale(ones, 3.0), 3 * ones)
    print("the kernel computes on", torch.cuda.get_device_name())
else:
    print("loads with CUDA", cuda_probe.runtime_version(), "without a GPU")
