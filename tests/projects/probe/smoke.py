import probe
import torch

assert probe.twice(torch.ones(3)).tolist() == [2, 2, 2]
