import ctypes
import pathlib

import torch

_here = pathlib.Path(__file__).parent
torch.ops.load_library(str(_here / "_C.so"))
bytes_of_float = ctypes.CDLL(str(_here / "lib" / "liblegacy_plain.so")).bytes_of_float
twice = torch.ops.legacy.twice
