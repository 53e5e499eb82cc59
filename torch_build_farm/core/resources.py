"""Files that come with the package."""

from pathlib import Path

import torch_build_farm

DATA = Path(torch_build_farm.__file__).resolve().parent / "data"
