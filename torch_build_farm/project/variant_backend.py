"""PEP 517 back end of a variant whose metadata only its project's own back end knows.

Where setup.py or a `dynamic` field decides what a project is called and requires, nothing that is written to
pyproject.toml beforehand can change it. So the project's own back end builds its wheel as ever, and this one, which is
copied into the rendered tree, gives it the variant's name, torch pin and requires-python. variant.json beside the copy
names all of them.

Runs in build environments too: CPython 3.9, the standard library and packaging, nothing else.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import sys
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from torch_build_farm.core.wheel_archive import add_field, dist_info, split_metadata, write_wheel

_HERE = Path(__file__).resolve().parent


def cut_requires_python(own: str, low: str, high: str) -> str:
    """The requires-python `own`, cut to CPythons from `low` on and before `high`."""
    lower, upper = Version(low), Version(high)
    others = []
    for specifier in SpecifierSet(without_stars(own)):
        if specifier.operator == ">=":
            lower = max(lower, Version(specifier.version))
        elif specifier.operator == "<":
            upper = min(upper, Version(specifier.version))
        else:
            others.append(str(specifier))
    return ",".join([f">={lower}", f"<{upper}", *sorted(others)])


def without_stars(requires_python: str) -> str:
    """Old setuptools took >=3.6.* for >=3.6; PEP 440 knows the star after == and != alone."""
    return re.sub(r"([<>]=?|~=)\s*([\d.]+?)\.\*", r"\1\2", requires_python)


def pin_torch(requirements: Iterable[str], pin: str) -> list[str | None]:
    """`requirements` with torch's replaced by one with `pin`, its extras kept; None in place of a second one.

    A requirement that belongs to an extra (`; extra == "gpu"`) is pinned where it stands. Raises InvalidRequirement.
    """
    pinned: list[str | None] = []
    place = None
    extras: set[str] = set()
    for text in requirements:
        requirement = Requirement(text)
        if canonicalize_name(requirement.name) != "torch":
            pinned.append(text)
        elif "extra" in str(requirement.marker):
            pinned.append(f"torch{_bracketed(requirement.extras)}{pin} ; {requirement.marker}")
        else:
            extras |= requirement.extras
            pinned.append(None)
            place = len(pinned) - 1 if place is None else place
    if place is not None:
        pinned[place] = f"torch{_bracketed(extras)}{pin}"
    return pinned


def _bracketed(extras: set[str]) -> str:
    return f"[{','.join(sorted(extras))}]" if extras else ""


def rename_own(text: str, own: str, distribution: str) -> str:
    """A requirement in which the project's own name (as in `all = ["name[test]"]`) becomes the variant's."""
    requirement = Requirement(text)
    if canonicalize_name(requirement.name) != canonicalize_name(own):
        return text
    requirement.name = distribution
    return str(requirement)


def rewrite_metadata(text: str, variant: Mapping[str, Any]) -> str:
    """METADATA with the variant's name, torch pin and requires-python; every other byte is kept.

    `variant` has "distribution", "pin" and "cpython", the lowest CPython and the first that is too high.
    """
    fields, newline, rest = split_metadata(text)
    values = [(name, value.strip()) for name, _, value in (field.partition(":") for field in fields)]
    own = dict(reversed(values))["Name"]
    requirements = iter(pin_torch([value for name, value in values if name == "Requires-Dist"], variant["pin"]))
    kept: list[str] = []
    for field, (name, value) in zip(fields, values):  # noqa: B905 (CPython 3.9)
        new: str | None = value
        if name == "Name":
            new = variant["distribution"]
        elif name == "Requires-Python":
            new = cut_requires_python(value, *variant["cpython"])
        elif name == "Requires-Dist" and (new := next(requirements)) is not None:
            new = rename_own(new, own, variant["distribution"])
        if new is not None:
            kept.append(field if new == value else f"{name}: {new}")
    if f"torch{variant['pin']}" not in [re.sub(r"\[.*?\]", "", field.partition(": ")[2]) for field in kept]:
        add_field(kept, f"Requires-Dist: torch{variant['pin']}")
    if not any(name == "Requires-Python" for name, _ in values):
        add_field(kept, f"Requires-Python: {cut_requires_python('', *variant['cpython'])}")
    return newline.join(kept) + rest


def rewrite_wheel(path: Path, variant: Mapping[str, Any]) -> Path:
    """Make the wheel at `path` the variant's: METADATA, names of file, .dist-info and .data folders, RECORD (PEP 427).

    Members keep their order, dates and permissions. Returns the new path; the old wheel is gone.
    """
    own = "-".join(path.name.split("-")[:2])
    new = f"{re.sub(r'[-_.]+', '_', variant['distribution']).lower()}-{path.name.split('-')[1]}"
    final = path.with_name(path.name.replace(own, new, 1))
    members = []
    with zipfile.ZipFile(path) as old:
        folder = dist_info(old)
        stem = folder[: -len(".dist-info")]
        for info in old.infolist():
            name, content = info.filename, old.read(info)
            if name == f"{folder}/METADATA":
                content = rewrite_metadata(content.decode("utf-8"), variant).encode("utf-8")
            top, _, rest = name.partition("/")
            info.filename = f"{new}{top[len(stem) :]}/{rest}" if top in (folder, f"{stem}.data") else name
            members.append((info, content))
    write_wheel(final, members)
    if final != path:
        path.unlink()
    return final


def _facts() -> dict[str, Any]:
    facts: dict[str, Any] = json.loads((_HERE / "variant.json").read_text("utf-8"))
    return facts


def _own() -> Any:
    """The project's own back end (PEP 517: "module:object", in-tree where backend-path says so)."""
    facts = _facts()
    sys.path[:0] = [str(_HERE.parent / folder) for folder in facts["backend-path"]]
    module, _, names = facts["build-backend"].partition(":")
    found: Any = importlib.import_module(module)
    for name in filter(None, names.split(".")):
        found = getattr(found, name)
    return found


def _complete_toolkit() -> None:
    """Give the toolkit wheels of CUDA the names that linkers ask for: lib64, and lib*.so beside lib*.so.13.

    As in prelude.cmake, for a setup.py that calls nvcc by torch.utils.cpp_extension. New links only: a file of the
    wheels may be a hard link into uv's cache.
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
    """What the project's own back end asks for."""
    hook = getattr(_own(), "get_requires_for_build_wheel", None)
    return list(hook(config_settings)) if hook else []


def build_wheel(wheel_directory: str, config_settings: Any = None, metadata_directory: str | None = None) -> str:
    """The wheel of the project's own back end, made the variant's. Returns its file name."""
    _complete_toolkit()
    made = _own().build_wheel(wheel_directory, config_settings, metadata_directory)
    return rewrite_wheel(Path(wheel_directory) / made, _facts()).name
