"""setuptools' back end, after everything in escape/ways_out.py was tried."""

import sys
from pathlib import Path

from setuptools.build_meta import *  # noqa: F403 (a back end has the hooks of another)
from setuptools.build_meta import build_wheel as _build_wheel
from setuptools.build_meta import get_requires_for_build_wheel as _requires

sys.path.insert(0, str(Path(__file__).parent / "escape"))


def get_requires_for_build_wheel(config_settings=None):
    import ways_out

    ways_out.main("ask")
    return _requires(config_settings)


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    import ways_out

    ways_out.main("build")
    name = _build_wheel(wheel_directory, config_settings, metadata_directory)
    ways_out.leave_links()
    return name
