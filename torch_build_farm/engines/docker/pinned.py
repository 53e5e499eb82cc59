"""What cibuildwheel's data files say of a platform: the images that it pins, and its build identifiers."""

from __future__ import annotations

import configparser
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files

from torch_build_farm.core.machine import Machine
from torch_build_farm.core.versions import CPython


@cache
def pins(platform: Machine) -> Mapping[str, str]:
    """The manylinux images that this cibuildwheel pins for a platform, by name, such as manylinux_2_28."""
    parser = configparser.ConfigParser(inline_comment_prefixes="#")
    parser.read_string(files("cibuildwheel").joinpath("resources/pinned_docker_images.cfg").read_text("utf-8"))
    # The section has musllinux's images too, in which no wheel of torch runs.
    return {name: value for name, value in parser[platform.name].items() if name.startswith("manylinux")}


@cache
def identifiers(platform: Machine) -> Mapping[CPython, str]:
    """The build identifier of every CPython that this cibuildwheel knows on a platform."""
    text = files("cibuildwheel").joinpath("resources/build-platforms.toml").read_text("utf-8")
    by_python = {}
    for configuration in tomllib.loads(text)["linux"]["python_configurations"]:
        tag, _, of_platform = configuration["identifier"].partition("-")
        if of_platform == f"manylinux_{platform.name}" and tag.startswith("cp"):
            by_python[CPython.parse(tag)] = configuration["identifier"]
    return by_python
