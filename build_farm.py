"""The driver: hands the arguments over, and maps an error to an exit code. `python build_farm.py --help` says more."""

import os
import signal
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent

if __name__ == "__main__":
    # Until the farm has its own handlers nothing runs that would have to be stopped. An exception could get lost in an
    # import that catches too much.
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    try:
        from torch_build_farm.cli.main import main
    except ModuleNotFoundError as error:
        print(f"{error.name} is not installed for {sys.executable}", file=sys.stderr)  # noqa: T201
        print(f"  next:  {sys.executable} -m pip install {ROOT}   (Python 3.11 or newer)", file=sys.stderr)  # noqa: T201
        sys.exit(8)
    sys.exit(main(sys.argv[1:], root=ROOT))
