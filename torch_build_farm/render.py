"""A job's source tree, from the project's own and templates/*.j2. `render` is pure; `write` puts a tree on disk."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import tomlkit
from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from torch_build_farm.config import TABLE, Project, Variant
from torch_build_farm.errors import RenderError, SourceError
from torch_build_farm.plan import Job
from torch_build_farm.source import Source

FARM_FOLDER = ".torch-build-farm"
PRELUDE = f"{FARM_FOLDER}/prelude.cmake"
CONSTRAINTS = f"{FARM_FOLDER}/constraints.txt"
# Rendered file <- template. Everything else of the tree is the project's own.
_RENDERED = {
    "pyproject.toml": "pyproject.toml.j2",
    PRELUDE: "prelude.cmake.j2",
    CONSTRAINTS: "constraints.txt.j2",
}


@dataclass(frozen=True)
class Tree:
    """A source tree to be: the project's files, and over them the rendered ones (path -> text)."""

    source: Source
    rendered: Mapping[str, str]


def cut_requires_python(own: str, variant: Variant) -> str:
    """The project's requires-python, cut to the CPythons that the torch minor has wheels for."""
    low, high = min(variant.cpython), max(variant.cpython)
    lower, upper = Version(low.release), Version(f"{high.major}.{high.minor + 1}")
    others = []
    for specifier in SpecifierSet(own):
        if specifier.operator == ">=":
            lower = max(lower, Version(specifier.version))
        elif specifier.operator == "<":
            upper = min(upper, Version(specifier.version))
        else:
            others.append(str(specifier))
    return ",".join([f">={lower}", f"<{upper}", *sorted(others)])


def _pinned(requirements: Iterable[object], pin: str, where: str) -> tuple[list[str], bool]:
    """`requirements` with torch's replaced by one with `pin` (its extras kept), and whether there was one."""
    kept: list[str] = []
    extras: set[str] = set()
    place = None
    for text in requirements:
        try:
            requirement = Requirement(str(text))
        except InvalidRequirement as error:
            raise RenderError(f"{text!r} is no requirement: {error}", where=where) from None
        if canonicalize_name(requirement.name) == "torch":
            extras |= requirement.extras
            place = len(kept) if place is None else place
        else:
            kept.append(str(text))
    if place is not None:
        kept.insert(place, f"torch{'[' + ','.join(sorted(extras)) + ']' if extras else ''}{pin}")
    return kept, place is not None


def _with_torch(requirements: Iterable[object], pin: str, where: str) -> list[str]:
    pinned, had = _pinned(requirements, pin, where)
    return pinned if had else [*pinned, f"torch{pin}"]


def _extra(requirements: Iterable[object], names: tuple[str, str], pin: str, where: str) -> list[str]:
    """An extra's requirements: torch pinned, the project's own name (as in `all = ["name[test]"]`) the variant's."""
    own, distribution = names
    renamed = []
    for text in _pinned(requirements, pin, where)[0]:
        requirement = Requirement(text)
        if canonicalize_name(requirement.name) == canonicalize_name(own):
            requirement.name = distribution
            text = str(requirement)  # noqa: PLW2901
        renamed.append(text)
    return renamed


def _inline(value: object) -> str:
    """A value as TOML on one line."""
    if isinstance(value, Mapping):
        pairs = [f"{_key(str(k))} = {_inline(v)}" for k, v in value.items()]
        return f"{{ {', '.join(pairs)} }}" if pairs else "{}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_inline, value))}]"
    return tomlkit.item(value).as_string()


def _key(name: str) -> str:
    return tomlkit.key(name).as_string()


def _array(values: Iterable[object]) -> str:
    """An array as TOML, an element a line."""
    lines = [f"    {_inline(value)},\n" for value in values]
    return f"[\n{''.join(lines)}]" if lines else "[]"


def _table(mapping: Mapping[str, Any], name: str, without: tuple[str, ...] = ()) -> str:
    """The body of TOML table `name`: its plain keys first, then its sub-tables under headers of their own."""
    keys = {str(k): v for k, v in mapping.items() if k not in without}
    lines = [f"{_key(k)} = {_inline(v)}\n" for k, v in keys.items() if not isinstance(v, Mapping)]
    for key, value in keys.items():
        if isinstance(value, Mapping):
            header = f"{name}.{_key(key)}"
            lines.append(f"\n[{header}]\n{_table(value, header)}")
    return "".join(lines)


def _tool(source: Source) -> dict[str, Any]:
    """The project's [tool] tables, but for the farm's own.

    scikit-build-core finds the packages of a wheel by the distribution's name unless it is told; since the variant has
    another name, it is told what it would have found (its manual, "wheel.packages": src/, python/, the root).
    """
    tool = {name: table for name, table in source.pyproject.get("tool", {}).items() if name != TABLE}
    backend = str(source.pyproject.get("build-system", {}).get("build-backend", ""))
    settings = tool.get("scikit-build", {})
    if not backend.startswith("scikit_build_core") or "packages" in settings.get("wheel", {}):
        return tool
    name = str(source.pyproject["project"]["name"]).replace("-", "_")
    files = {file.path for file in source.files}
    for base in ("src/", "python/", ""):
        for package in dict.fromkeys((name.replace(".", "_"), name.replace(".", "/"))):
            if files & {f"{base}{package}/__init__.py", f"{base}{package}/__init__.pyi"}:
                found = {"packages": {package: f"{base}{package}"} if "/" in package else [f"{base}{package}"]}
                tool["scikit-build"] = {**settings, "wheel": {**settings.get("wheel", {}), **found}}
                return tool
    return tool


def _environment(folders: tuple[Path, ...]) -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folders),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,
    )
    environment.filters.update(toml=_inline, toml_array=_array, toml_key=_key, toml_table=_table)
    return environment


def render(project: Project, source: Source, job: Job) -> Tree:
    """The source tree of `job`: the variant's name, torch pinned, requires-python cut, all other metadata kept.

    Pure and byte-stable. Raises RenderError where the metadata cannot be rendered or a template is wrong.
    """
    where = str(source.root / "pyproject.toml")
    metadata, variant = source.pyproject["project"], job.variant
    if "dependencies" in metadata.get("dynamic", ()):
        raise RenderError(
            "the project's dependencies are dynamic, so its torch requirement cannot be replaced",
            where=f"{where}: [project] dynamic",
            next_step="list them in [project] dependencies",
        )
    names = (str(metadata["name"]), job.distribution)
    build_system = source.pyproject.get("build-system", {"requires": ["setuptools"]})
    context = {
        "job": job,
        "variant": variant,
        "settings": project.settings,
        "build_system": build_system,
        "build_requires": [
            *_with_torch(build_system["requires"], f"=={variant.release}", where),
            *(variant.cuda_toolkit if project.settings.cuda_arch_list else ()),
        ],
        "metadata": metadata,
        "dependencies": _with_torch(metadata.get("dependencies", ()), variant.pin, where),
        "extras": {
            extra: _extra(requirements, names, variant.pin, where)
            for extra, requirements in metadata.get("optional-dependencies", {}).items()
        },
        "requires_python": cut_requires_python(source.requires_python, variant),
        "tool": _tool(source),
    }
    environment = _environment(project.template_folders)
    try:
        rendered = {path: environment.get_template(name).render(context) for path, name in _RENDERED.items()}
        tomlkit.parse(rendered["pyproject.toml"])
    except jinja2.TemplateError as error:
        place = getattr(error, "name", None) or "templates"
        raise RenderError(
            f"a template cannot be rendered: {error}", where=f"{place}, line {getattr(error, 'lineno', '?')}"
        ) from None
    except tomlkit.exceptions.TOMLKitError as error:
        raise RenderError(
            f"the rendered pyproject.toml is not valid TOML: {error}", where="pyproject.toml.j2"
        ) from None
    return Tree(source, rendered)


def _copy(path: Path, target: Path, expected: str) -> None:
    """Copy a source file as it was when the run began: records speak of that content and of no other."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        content = b""
    if hashlib.sha256(content).hexdigest() != expected:
        raise SourceError("a source file changed while the farm ran", where=str(path), next_step="run again")
    target.write_bytes(content)


def write(tree: Tree, folder: Path, epoch: int) -> None:
    """Write `tree` to `folder`, which must not exist; every file gets the modification time `epoch` (Unix seconds)."""
    for file in tree.source.files:
        target = folder / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        if file.link:
            target.symlink_to(file.link)
        elif file.path not in tree.rendered:
            _copy(tree.source.root / file.path, target, file.sha256)
            target.chmod(0o755 if file.executable else 0o644)
            os.utime(target, (epoch, epoch))
    for path, text in tree.rendered.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, "utf-8")
        os.utime(target, (epoch, epoch))
