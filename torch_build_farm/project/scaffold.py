"""A project file from a source tree: what can be told without running it, and marks at what cannot."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomlkit
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from torch_build_farm.core.errors import VersionError
from torch_build_farm.project import metadata
from torch_build_farm.project.settings import TABLE
from torch_build_farm.project.variant import Variant

MARK = "CHECK:"
# Folders with an __init__.py that are seldom installed.
_BESIDE = {"benchmark", "benchmarks", "build", "cmake", "conda", "dist", "doc", "docs", "example", "examples",
           "scripts", "test", "testing", "tests", "tools"}  # fmt: skip
_VARIABLE = re.compile(r"""(?:getenv\(|environ\.get\(|environ\[)\s*["'](\w+)["']""")


@dataclass(frozen=True)
class Found:
    """What a source tree says; empty where it does not."""

    name: str
    version: str
    backend: str
    packages: tuple[str, ...]
    torch: str  # its requirement
    cuda_sources: tuple[str, ...]
    variables: tuple[str, ...]  # that setup.py reads


def look(root: Path) -> Found:
    """Look into the tree at `root`. Raises SourceError where there is no Python project."""
    document = metadata.document(root)
    try:
        said = metadata.read(root, document)
    except VersionError:
        said = metadata.read(root, document, "0")
    build_system = document.get("build-system", {})
    script = root / "setup.py"
    read = _VARIABLE.findall(script.read_text("utf-8", "replace")) if script.is_file() else []
    return Found(
        name=said.name,
        version="" if said.version == "0" else said.version,
        backend=str(build_system.get("build-backend", "setuptools")),
        packages=_packages(root, document),
        torch=_torch([*said.requires, *map(str, build_system.get("requires", ()))]),
        cuda_sources=tuple(sorted(str(path.relative_to(root)) for path in root.rglob("*.cu"))),
        variables=tuple(sorted(set(read))),
    )


def _torch(requirements: Iterable[str]) -> str:
    for text in requirements:
        try:
            if canonicalize_name(Requirement(text).name) == "torch":
                return text
        except InvalidRequirement:
            continue
    return ""


def _packages(root: Path, document: Mapping[str, Any]) -> tuple[str, ...]:
    """Import names of packages: what scikit-build-core or an sdist of setuptools lists, else what looks like one."""
    listed = document.get("tool", {}).get("scikit-build", {}).get("wheel", {}).get("packages")
    if listed:
        return tuple(sorted(Path(name).name for name in listed))
    there = {
        path.parent.name: path
        for base in ("", "src", "python")
        for path in sorted((root / base).glob("*/__init__.py"))
        if path.parent.name not in _BESIDE and path.parent.name.isidentifier()
    }
    for path in root.glob("*.egg-info/top_level.txt"):
        names = path.read_text("utf-8").split()
        return tuple(sorted(name for name in names if name in there or not there)) or tuple(sorted(there))
    return tuple(sorted(there))


def project_file(found: Found, origin: Mapping[str, str], variants: Sequence[Variant]) -> str:
    """The table [tool.torch-build-farm]; `origin` holds those of its keys that state where the source is."""
    name = canonicalize_name(found.name) or "name-it"
    requirement = f"requires {found.torch!r}" if found.torch else "names no torch"
    lines = [
        f"# By `init` from {found.name or 'a source'} {found.version}: {found.backend}, {requirement}. "
        f"{MARK} marks what it could not tell.",
        f"[tool.{TABLE}]",
        _line("name", name, "" if found.name else "the source does not say its name"),
    ]
    for key, value in origin.items():
        lines.append(_line(key, value))
    if not found.version:
        lines.append(_line("version", "0", "the source does not say its version without being run"))
    packages = found.packages or (name.replace("-", "_"),)
    lines.append(
        _line("packages", packages, "" if len(found.packages) == 1 else "which packages does the wheel install?")
    )
    lines.append(_torch_line(found, variants))

    if found.cuda_sources:
        lines.append(
            f"# {MARK} {found.cuda_sources[0]} and {len(found.cuda_sources) - 1} more need nvcc. "
            'cuda-arch-list = ["8.0", "9.0"] compiles them; without it the build has no CUDA toolkit.'
        )
    if found.variables:
        lines.append(f"# setup.py reads {', '.join(found.variables)}; the table environment sets them.")
    if found.cuda_sources and "FORCE_ONLY_CPU" in found.variables:
        lines.append(f'environment = {{ FORCE_ONLY_CPU = "1" }}  # {MARK} builds what needs no CUDA')
    lines.append('# smoke-script = "smoke.py" beside this file: compute something, compare it with what you know.')
    return "\n".join(lines) + "\n"


def _torch_line(found: Found, variants: Sequence[Variant]) -> str:
    """The minors to build for: those that the source's requirement admits, else all of them, marked."""
    admitted = [variant for variant in variants if _admits(found.torch, variant)]
    minors = [str(variant.torch) for variant in admitted or variants]
    if not found.torch:
        mark = "the source names no torch: which minors does it compile for?"
    elif not admitted:
        mark = "no known minor is admitted: which does it compile for?"
    else:
        mark = ""
    return _line("torch", minors, mark)


def _line(key: str, value: str | Sequence[str], mark: str = "") -> str:
    """A line of TOML; with `mark`, one that asks to be checked."""
    item = tomlkit.item(value if isinstance(value, str) else list(value)).as_string()
    return f"{key} = {item}  # {MARK} {mark}" if mark else f"{key} = {item}"


def _admits(requirement: str, variant: Variant) -> bool:
    specifier = Requirement(requirement).specifier if requirement else None
    return specifier is None or any(specifier.contains(release) for release in variant.releases)
