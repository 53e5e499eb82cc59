"""The driver: hands the arguments over, and maps an error to an exit code. `python build_farm.py --help` says more."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent

if __name__ == "__main__":
    try:
        from torch_build_farm.cli import main
    except ModuleNotFoundError as error:
        sys.exit(f"{error.name} is not installed for this Python\n  next:  pip install {ROOT}")
    except KeyboardInterrupt:  # before the farm has its own handlers
        sys.exit(130)
    sys.exit(main(sys.argv[1:], root=ROOT))
