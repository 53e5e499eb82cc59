import legacy
import torch

assert legacy.twice(torch.tensor([1.0, 2.0])).tolist() == [2, 4]
assert legacy.bytes_of_float() == 4
print("legacy: twice is twice, a float has four bytes")
