from pathlib import Path

import torch

torch.ops.load_library(Path(__file__).parent / "steady_ops.so")
twice = torch.ops.steady.twice
