import steady
import torch

doubled = steady.twice(torch.ones(3)).tolist()
assert doubled == [2, 2, 2]
print("doubled", doubled)
