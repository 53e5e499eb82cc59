"""Lets the CPython of a build environment answer as one of the machine that the build is for.

Back ends ask it for headers, file names and tags (sysconfig, platform, os.uname), which has to be those of the target;
the same modules of crossenv do. Only this environment's CPython reads this file, by its .pth file: variables of the
environment such as _PYTHON_HOST_PLATFORM would change every other Python that a build starts, too. The farm's own uv
asks as well, for what it installs, and that has to run on this machine: TORCH_BUILD_FARM_OWN_MACHINE says so.
"""

import json
import os
import sysconfig
from pathlib import Path
from typing import Any


def _answer_as(target: dict[str, Any]) -> None:
    machine = target["machine"]
    own = os.uname()
    uname = os.uname_result((own.sysname, own.nodename, own.release, own.version, machine))
    os.uname = lambda: uname
    sysconfig.get_platform = lambda: f"linux-{machine}"
    sysconfig.get_config_vars().update(target["variables"])
    for scheme in vars(sysconfig)["_INSTALL_SCHEMES"].values():
        scheme["include"] = scheme["platinclude"] = target["include"]


if "TORCH_BUILD_FARM_OWN_MACHINE" not in os.environ:
    _answer_as(json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8")))
