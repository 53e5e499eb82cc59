"""PEP 517 back end of a variant whose metadata only its project's own back end knows.

Where setup.py or a `dynamic` field decides what a project is called and requires, nothing that is written to
pyproject.toml beforehand can change it. So the project's own back end builds its wheel as usual, and this one gives the
wheel the variant's name, torch pin and requires-python.

The farm does not import this file. It copies it into rendered trees, to .torch-build-farm/variant_backend.py, with
core/wheel_archive.py and project/variant_metadata.py beside it; backend-path makes all three importable by plain name.
variant.json beside them holds the variant's facts. All of this runs in build environments: CPython 3.9, the standard
library and packaging, nothing else.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # where the copies come from
    from torch_build_farm.core.wheel_archive import add_field, dist_info, split_metadata, write_wheel
    from torch_build_farm.project.variant_metadata import cut_requires_python, pin_torch, rename_own
else:
    from variant_metadata import cut_requires_python, pin_torch, rename_own
    from wheel_archive import add_field, dist_info, split_metadata, write_wheel

_FOLDER = Path(__file__).resolve().parent
# pdm-backend 2.5 marks its build folder for git, and where setuptools compiles it packs the mark as well.
_STRAY = ".gitignore"


def rewrite_metadata(text: str, variant: Mapping[str, Any]) -> str:
    """METADATA with the variant's name, torch pin and requires-python; every other byte is kept.

    `variant` has "distribution", "pin" and "cpython": the lowest CPython, and the first one that is too high, empty for
    none.
    """
    fields, newline, rest = split_metadata(text)
    values = []
    for field in fields:
        name, _, value = field.partition(":")
        values.append((name, value.strip()))
    project_name = next(value for name, value in values if name == "Name")
    pinned = iter(pin_torch([value for name, value in values if name == "Requires-Dist"], variant["pin"]))

    result: list[str] = []
    for field, (name, value) in zip(fields, values):  # noqa: B905 (CPython 3.9)
        new_value: str | None = value
        if name == "Name":
            new_value = variant["distribution"]
        elif name == "Requires-Python":
            new_value = cut_requires_python(value, *variant["cpython"])
        elif name == "Requires-Dist":
            new_value = next(pinned)
            if new_value is not None:
                new_value = rename_own(new_value, project_name, variant["distribution"])
        # A value that stays keeps its field as it is written, blanks and continuation lines included. A requirement
        # without a value is a second one on torch.
        if new_value is not None:
            result.append(field if new_value == value else f"{name}: {new_value}")

    torch_pin = f"Requires-Dist: torch{variant['pin']}"
    if torch_pin not in [re.sub(r"\[.*?\]", "", field) for field in result]:
        add_field(result, torch_pin)
    if not any(name == "Requires-Python" for name, _ in values):
        add_field(result, f"Requires-Python: {cut_requires_python('', *variant['cpython'])}")
    return newline.join(result) + rest


def rewrite_wheel(path: Path, variant: Mapping[str, Any]) -> Path:
    """Make the wheel at `path` the variant's: METADATA, names of file, .dist-info and .data folders, RECORD (PEP 427).

    Members keep their order, dates and permissions; a .gitignore outside of packages is left out. Returns the new path;
    the wheel at `path` is removed.
    """
    name, version = path.name.split("-")[:2]
    new_name = re.sub(r"[-_.]+", "_", variant["distribution"]).lower()
    new_path = path.with_name(path.name.replace(f"{name}-{version}", f"{new_name}-{version}", 1))
    members = []
    with zipfile.ZipFile(path) as archive:
        info_folder = dist_info(archive)
        stem = info_folder[: -len(".dist-info")]
        for info in archive.infolist():
            if info.filename == _STRAY:
                continue
            content = archive.read(info)
            if info.filename == f"{info_folder}/METADATA":
                content = rewrite_metadata(content.decode("utf-8"), variant).encode("utf-8")
            top, _, rest = info.filename.partition("/")
            if top in (info_folder, f"{stem}.data"):
                info.filename = f"{new_name}-{version}{top[len(stem) :]}/{rest}"
            members.append((info, content))
    write_wheel(new_path, members)
    if new_path != path:
        path.unlink()
    return new_path


def _facts() -> dict[str, Any]:
    facts: dict[str, Any] = json.loads((_FOLDER / "variant.json").read_text("utf-8"))
    return facts


def _project_backend() -> Any:
    """The project's own back end (PEP 517: "module:object", in-tree where backend-path names its folder)."""
    facts = _facts()
    sys.path[:0] = [str(_FOLDER.parent / folder) for folder in facts["backend-path"]]
    module, _, attributes = facts["build-backend"].partition(":")
    backend: Any = importlib.import_module(module)
    for attribute in filter(None, attributes.split(".")):
        backend = getattr(backend, attribute)
    return backend


def _complete_toolkit() -> None:
    """Give the toolkit wheels of CUDA the names that linkers look for: lib64, and lib*.so beside lib*.so.13.

    As in prelude.cmake, for a setup.py that calls nvcc by torch.utils.cpp_extension. It adds links and changes no file:
    a file of the wheels may be a hard link into uv's cache.
    """
    toolkit = Path(os.environ.get("CUDA_HOME", ""))
    if not toolkit.is_relative_to(sys.prefix) or (toolkit / "lib64").exists():
        return
    for library in (toolkit / "lib").glob("lib*.so.*"):
        link = library.with_name(library.name.split(".so.")[0] + ".so")
        if not link.exists():
            link.symlink_to(library.name)
    (toolkit / "lib64").symlink_to("lib")


def get_requires_for_build_wheel(config_settings: Any = None) -> list[str]:
    """The build requirements that the project's own back end asks for."""
    hook = getattr(_project_backend(), "get_requires_for_build_wheel", None)
    return list(hook(config_settings)) if hook else []


def build_wheel(wheel_directory: str, config_settings: Any = None, metadata_directory: str | None = None) -> str:
    """Build the wheel with the project's own back end and make it the variant's. Returns its file name."""
    _complete_toolkit()
    file_name = _project_backend().build_wheel(wheel_directory, config_settings, metadata_directory)
    return rewrite_wheel(Path(wheel_directory) / file_name, _facts()).name
