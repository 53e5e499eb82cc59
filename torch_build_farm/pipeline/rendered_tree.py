"""A job's source tree, from the project's own and templates/*.j2.

`render` is pure: the same project, source and job give the same tree, byte for byte. `write` puts a tree on disk.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path, PurePosixPath
from typing import Any

import jinja2
import tomli_w
from packaging.requirements import InvalidRequirement
from packaging.utils import canonicalize_name

from torch_build_farm.core.errors import RenderError, SourceError
from torch_build_farm.core.requirements import read_requirement
from torch_build_farm.core.resources import DATA
from torch_build_farm.core.templates import strict_environment
from torch_build_farm.engines.variables import (
    CONSTRAINTS,
    DRIVER_STUBS,
    FARM_FOLDER,
    NVCC_WITH_TOKENS,
    PRELUDE,
    TOOLCHAIN,
)
from torch_build_farm.project import source_files
from torch_build_farm.project.plan import Job
from torch_build_farm.project.settings import TABLE, Project
from torch_build_farm.project.tree import Source
from torch_build_farm.project.variant import StableVariant, Variant
from torch_build_farm.project.variant_metadata import cut_requires_python, pin_torch, rename_own
from torch_build_farm.wheels import driver

_DEFAULT_BACKEND = "setuptools.build_meta:__legacy__"  # PEP 517's, where none is named
_VARIANT_BACKEND = "variant_backend"
_PROJECT_NAME = "SKBUILD_PROJECT_NAME"  # of scikit-build-core, for CMake files
# What that back end consists of; the tree gets copies of these files side by side. None imports another by package.
_VARIANT_BACKEND_FILES = ("data/variant_backend.py", "core/wheel_archive.py", "project/variant_metadata.py")
# Rendered file <- template. Besides these the farm renders pyproject.toml; all else of the tree is the project's own.
_RENDERED = {
    PRELUDE: "prelude.cmake.j2",
    TOOLCHAIN: "toolchain.cmake.j2",
    CONSTRAINTS: "constraints.txt.j2",
}


@dataclass(frozen=True)
class Tree:
    """A source tree to be: the project's files, and over them the rendered ones (path -> text).

    `tools` are files that a compiler or linker of CUDA sources gets: nvcc's launcher, and stubs of libraries.
    """

    source: Source
    rendered: Mapping[str, str]
    tools: Mapping[str, bytes]

    @property
    def content(self) -> str:
        """SHA-256 of the project's own files in the tree, those that are rendered left out."""
        return self.source.digest(without=self.rendered)


def render(project: Project, source: Source, job: Job) -> Tree:
    """The source tree of `job`: the variant's name, torch pinned, requires-python cut, all other metadata kept.

    Where [project] does not say all of that, the variant's back end (data/variant_backend.py) sees to it in the wheel.
    The tree of a core has the metadata of its own source, without torch.

    Pure and byte-stable. Raises RenderError where the metadata cannot be rendered or a template is wrong.
    """
    context = _context(project, source, job)
    environment = strict_environment(*project.template_folders)
    rendered = {}
    try:
        for path, name in _RENDERED.items():
            rendered[path] = environment.get_template(name).render(context)
    except jinja2.TemplateError as error:
        place = getattr(error, "name", None) or "templates"
        raise RenderError(
            f"a template cannot be rendered: {error}", where=f"{place}, line {getattr(error, 'lineno', '?')}"
        ) from None
    rendered = {
        "pyproject.toml": _pyproject(context),
        **source.substitutes,
        **rendered,
        **_backend_files(source, job),
    }
    tools = {}
    if context["settings"].cuda_arch_list:
        # CUDA sources may call the driver, which no toolkit brings.
        tools[f"{DRIVER_STUBS}/libcuda.so"] = driver.link_stub(job.platform)
        tools[NVCC_WITH_TOKENS] = (DATA / "nvcc-with-tokens.sh").read_bytes()
    # All of them belong to the Python project, which may lie in a folder of the source.
    folder = PurePosixPath(source.origin.subdirectory)
    return Tree(
        source,
        rendered={str(folder / path): text for path, text in rendered.items()},
        tools={str(folder / path): content for path, content in tools.items()},
    )


def _context(project: Project, source: Source, job: Job) -> dict[str, Any]:
    """The names that templates can use."""
    where = str(source.project / "pyproject.toml")
    variant = job.variant
    settings = project.settings.for_job(variant, job.python)

    # PEP 518: a project without the table builds with setuptools.
    projects_build_system = source.pyproject.get("build-system", {"requires": ["setuptools"]})

    declared = [*projects_build_system["requires"], *settings.build_requires]
    if variant.needs_torch:
        # Built against exactly one release, though the wheel's own pin takes every release of the minor.
        requires = _with_torch(declared, variant.build_pin, where)
    else:
        requires = [str(requirement) for requirement in declared]
    if settings.cuda_arch_list:
        requires += variant.cuda_toolkit
    if not variant.needs_torch:
        build_system = {**projects_build_system, "requires": requires}
        metadata = source.pyproject.get("project", {})
    elif _project_table_decides(source):
        build_system = {**projects_build_system, "requires": requires}
        metadata = _project_table(source, job, where)
    else:
        # The variant's back end lies in the tree itself (PEP 517, backend-path), and imports packaging.
        build_system = {
            "requires": [*requires, "packaging"],
            "build-backend": _VARIANT_BACKEND,
            "backend-path": [FARM_FOLDER],
        }
        metadata = source.pyproject.get("project", {})
    return {
        "job": job,
        "variant": variant,
        "settings": settings,
        # What shares types with a core is held to the core's version (project/core_source.py).
        "pybind11": "" if project.core else _pybind11(variant, [*requires, *settings.build_constraints]),
        "build_system": build_system,
        "metadata": metadata,
        "tool": _tool(source, renamed=variant.needs_torch),
    }


def _pybind11(variant: Variant, requirements: Iterable[str]) -> str:
    """The version of pybind11 that a build is held to: the one among torch's headers.

    Empty where a requirement or a constraint of the project has no room for it, or where the variant does not say it.
    """
    if not variant.pybind11:
        return ""
    for text in requirements:
        requirement = read_requirement(text)
        is_pybind11 = canonicalize_name(requirement.name) == "pybind11"
        if is_pybind11 and not requirement.specifier.contains(variant.pybind11, prereleases=True):
            return ""
    return variant.pybind11


def _project_table_decides(source: Source) -> bool:
    """Whether [project] alone decides what a variant changes: none of it is dynamic, and the back end adds nothing.

    setuptools takes python_requires from setup.py even if [project] has another. Back ends such as hatchling and flit
    look for a package of the distribution's name, which a variant changes.
    """
    project = source.pyproject.get("project")
    if project is None:
        return False
    if {"dependencies", "optional-dependencies", "requires-python"} & set(project.get("dynamic", ())):
        return False
    module = back_end(source).partition(".")[0]
    if module == "setuptools":
        return not source.has("setup.py")
    return module == "scikit_build_core"


def back_end(source: Source) -> str:
    """The source's own build back end, as [build-system] names it."""
    return str(source.pyproject.get("build-system", {}).get("build-backend", _DEFAULT_BACKEND))


def _project_table(source: Source, job: Job, where: str) -> dict[str, Any]:
    """[project] of the variant, where it alone decides: name, torch pin and requires-python changed."""
    project, pin = source.pyproject["project"], job.variant.pin
    extras = {}
    for extra, requirements in project.get("optional-dependencies", {}).items():
        pinned = _with_torch(requirements, pin, where, needed=False)
        extras[extra] = [rename_own(text, str(project["name"]), job.distribution) for text in pinned]
    table = {
        **project,
        "name": job.distribution,
        "requires-python": cut_requires_python(str(project.get("requires-python", "")), *python_bounds(job.variant)),
        "dependencies": _with_torch(project.get("dependencies", ()), pin, where),
    }
    if extras:
        table["optional-dependencies"] = extras
    return table


def _with_torch(requirements: Iterable[object], pin: str, where: str, *, needed: bool = True) -> list[str]:
    """`requirements` with torch's replaced by one with `pin`; with `needed`, that is added if torch's is missing."""
    texts = [str(requirement) for requirement in requirements]
    try:
        names = [canonicalize_name(read_requirement(text).name) for text in texts]
        pinned = [text for text in pin_torch(texts, pin) if text is not None]
    except InvalidRequirement as error:
        raise RenderError(f"not a valid requirement: {error}", where=where) from None
    if needed and "torch" not in names:
        pinned.append(f"torch{pin}")
    return pinned


def python_bounds(variant: Variant) -> tuple[str, str]:
    """The lowest CPython that a variant's torch has wheels for, and the first that is too high; empty for none.

    A wheel of the stable ABI serves torch minors to come, and their CPythons.
    """
    oldest = variant.minors[0]
    low, high = min(oldest.cpython), max(oldest.cpython)
    if isinstance(variant, StableVariant):
        return low.release, ""
    return low.release, f"{high.major}.{high.minor + 1}"


def _tool(source: Source, *, renamed: bool) -> dict[str, Any]:
    """The project's [tool] tables, except the farm's own; `renamed`: the distribution gets a variant's name.

    scikit-build-core goes by the distribution's name, and the variant's is another one: in _PROJECT_NAME, by which some
    CMake files call the package, and without `wheel.packages` in its search for packages in src/, python/ and the
    root (its manual, "wheel.packages"). The table gets what both would be by the project's name.
    """
    tool = dict(source.pyproject.get("tool", {}))
    tool.pop(TABLE, None)
    # Where [project] does not decide, the back end sees the project's own name.
    if not (renamed and back_end(source).startswith("scikit_build_core") and _project_table_decides(source)):
        return tool

    name = str(source.pyproject["project"]["name"]).replace("-", "_")
    settings = dict(tool.get("scikit-build", {}))
    if _cmake_asks_for_name(source):
        cmake = settings.get("cmake", {})
        defines = {_PROJECT_NAME: name.replace(".", "_"), **cmake.get("define", {})}
        settings["cmake"] = {**cmake, "define": defines}
        tool["scikit-build"] = settings
    if "packages" in settings.get("wheel", {}):
        return tool

    # The places in the order in which scikit-build-core looks; the first that has a package counts.
    prefix = f"{source.origin.subdirectory}/" if source.origin.subdirectory else ""
    paths = {file.path.removeprefix(prefix) for file in source.files if file.path.startswith(prefix)}
    for base in ("src/", "python/", ""):
        for package in (name.replace(".", "_"), name.replace(".", "/")):
            folder = f"{base}{package}"
            if f"{folder}/__init__.py" in paths or f"{folder}/__init__.pyi" in paths:
                # A list puts the folder's last part into the wheel, so a nested package needs a table.
                packages = {package: folder} if "/" in package else [folder]
                wheel = {**settings.get("wheel", {}), "packages": packages}
                tool["scikit-build"] = {**settings, "wheel": wheel}
                return tool
    return tool


def _cmake_asks_for_name(source: Source) -> bool:
    """Whether a CMake file of the source uses the variable with the distribution's name."""
    for file in source.files:
        path = PurePosixPath(file.path)
        if not file.link and (path.name == "CMakeLists.txt" or path.suffix == ".cmake"):
            with contextlib.suppress(SourceError):  # too large for a file that somebody wrote
                content = file.content or source_files.content(source.root, file.path)
                if _PROJECT_NAME.encode() in content:
                    return True
    return False


def _pyproject(context: Mapping[str, Any]) -> str:
    """The variant's pyproject.toml. The project's tables are passed through; its comments are lost."""
    document = {"build-system": context["build_system"]}
    # An empty [project] would not be valid: a project with setup.py alone has none (PEP 621).
    for name, table in (("project", context["metadata"]), ("tool", context["tool"])):
        if table:
            document[name] = table
    distribution = context["job"].distribution
    comment = f"# Rendered by torch-build-farm for {distribution} from the project's own metadata.\n"
    return comment + tomli_w.dumps(document)


def _backend_files(source: Source, job: Job) -> dict[str, str]:
    """The variant's own back end and its facts, for a tree whose metadata only its project's back end knows."""
    if _project_table_decides(source) or not job.variant.needs_torch:
        return {}
    facts = {
        "distribution": job.distribution,
        "pin": job.variant.pin,
        "cpython": python_bounds(job.variant),
        "build-backend": back_end(source),
        "backend-path": source.pyproject.get("build-system", {}).get("backend-path", []),
    }
    rendered = {f"{FARM_FOLDER}/variant.json": json.dumps(facts, indent=2) + "\n"}
    for path in _VARIANT_BACKEND_FILES:
        rendered[f"{FARM_FOLDER}/{Path(path).name}"] = files("torch_build_farm").joinpath(path).read_text("utf-8")
    return rendered


def write(tree: Tree, folder: Path, epoch: int) -> None:
    """Write `tree` to `folder`, which must not exist; every file gets the modification time `epoch` (Unix seconds)."""
    for file in tree.source.files:
        target = folder / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        if file.link:
            target.symlink_to(file.link)
        elif file.path not in tree.rendered:
            if file.content is None:
                _copy(tree.source.root / file.path, target, file.sha256)
            else:
                target.write_bytes(file.content)
            # As git keeps modes: the umask of whoever checked the source out would be in the wheel otherwise.
            target.chmod(0o755 if file.executable else 0o644)
            os.utime(target, (epoch, epoch))
    for path, text in tree.rendered.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, "utf-8")
        os.utime(target, (epoch, epoch))
    for path, content in tree.tools.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        target.chmod(0o755)
        os.utime(target, (epoch, epoch))


def _copy(path: Path, target: Path, expected: str) -> None:
    """Copy a source file as it was when the run began: records speak of that content and of no other."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        content = b""
    if hashlib.sha256(content).hexdigest() != expected:
        raise SourceError(
            "a source file changed while the farm ran",
            where=str(path),
            next_step="run again, or name it in exclude where no build needs it",
        )
    target.write_bytes(content)
