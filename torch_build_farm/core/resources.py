"""Files that come with the package."""

from pathlib import Path

import torch_build_farm

DATA = Path(torch_build_farm.__file__).resolve().parent / "data"


def builtin_folder() -> Path:
    """The folder of the built-in variants/ and templates/: in the installed package, or the checkout around it."""
    package = DATA.parent
    return package / "builtin" if (package / "builtin").is_dir() else package.parent
