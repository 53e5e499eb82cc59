"""The version that a build back end takes from somewhere else than [project], read without running any of the source.

Each back end has a table of its own that says where its version is: in a file, in git, or in code. What only code would
tell is an error that asks for `version`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch_build_farm.core import regex
from torch_build_farm.core.errors import VersionError
from torch_build_farm.core.toml import table_in
from torch_build_farm.project import meson_file, scm_version, source_files
from torch_build_farm.project.scm_version import Answers
from torch_build_farm.project.setup_script import attribute

# What each back end searches a file for where the project names no expression of its own (re.MULTILINE).
_SCIKIT_BUILD = r'(?i)^(__version__|VERSION)(?: ?\: ?str)? *= *([\'"])v?(?P<value>.+?)\2'
_HATCH = r'(?i)^(__version__|VERSION) *= *([\'"])v?(?P<version>.+?)\2'
_PDM = r"^(?:__version__|VERSION)\s*=\s*[\"'](?P<version>.+?)[\"']\s*(?:#.*)?$"


def read(root: Path, pyproject: Mapping[str, Any], answers: Answers) -> tuple[str, bool]:
    """The version by the table of the source's back end, and whether it comes from git; "" where no table says it.

    Raises VersionError where git has no answer, and where only code would tell.
    """
    table = scm_table(pyproject)
    if table is not None:
        return scm_version.version(root, table, answers), True
    reader = _READERS.get(back_end(pyproject), _setuptools)
    return reader(root, pyproject), False


def back_end(pyproject: Mapping[str, Any]) -> str:
    """The top-level module of the source's back end, such as "hatchling"; "setuptools" where none is named."""
    named = table_in(pyproject, "build-system").get("build-backend", "setuptools")
    return re.split("[.:]", str(named), maxsplit=1)[0]


def scm_table(pyproject: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Where git gives the version, how it is counted, as [tool.setuptools_scm] would say it; else None.

    Raises VersionError where pdm-backend would ask code of the source's.
    """
    if table_in(pyproject, "project").get("version"):
        return None
    tool, name = table_in(pyproject, "tool"), back_end(pyproject)
    if name == "hatchling":
        return _hatch_vcs(table_in(tool, "hatch", "version"))
    if name == "pdm":
        return _pdm_scm(table_in(tool, "pdm", "version"))
    provider = str(table_in(tool, "scikit-build", "metadata", "version").get("provider", ""))
    if "setuptools_scm" in tool or provider.endswith("setuptools_scm"):
        return table_in(tool, "setuptools_scm")
    return None


def _hatch_vcs(table: Mapping[str, Any]) -> dict[str, Any] | None:
    """hatch-vcs hands its options on to setuptools-scm (its manual, "Version source options")."""
    if table.get("source") != "vcs":
        return None
    options = dict(table_in(table, "raw-options"))
    if table.get("tag-pattern"):
        options["tag_regex"] = table["tag-pattern"]
    return options


def _pdm_scm(table: Mapping[str, Any]) -> dict[str, Any] | None:
    """pdm-backend counts as setuptools-scm does by default, in whatever repository the project lies (its manual,
    "Dynamic version from SCM").
    """
    if table.get("source") != "scm":
        return None
    if table.get("version_format"):
        raise scm_version.only_code("tool.pdm.version", "version_format", table["version_format"])
    described = ["git", "describe", "--dirty", "--tags", "--long", "--match", table.get("tag_filter") or "*.*"]
    options = {"git_describe_command": described, "search_parent_directories": True}
    if table.get("tag_regex"):
        options["tag_regex"] = table["tag_regex"]
    return options


# ---- one function a back end


def _scikit_build(root: Path, pyproject: Mapping[str, Any]) -> str:
    """By the regex provider: https://scikit-build-core.readthedocs.io, dynamic metadata."""
    provider = table_in(pyproject, "tool", "scikit-build", "metadata", "version")
    if not str(provider.get("provider", "")).endswith("regex"):
        return ""
    expression = provider.get("regex", _SCIKIT_BUILD)
    return _searched(root, provider.get("input"), expression, "value", "tool.scikit-build.metadata.version")


def _setuptools(root: Path, pyproject: Mapping[str, Any]) -> str:
    # A source may name the provider and a back end that wraps scikit-build-core.
    version = _scikit_build(root, pyproject)
    if version:
        return version
    # A table with one key, such as {attr = "package.__version__"} or {file = ["VERSION"]}.
    for way, value in table_in(pyproject, "tool", "setuptools", "dynamic", "version").items():
        first = value[0] if isinstance(value, list) and value else value
        return directed(root, way, str(first))
    return ""


def _hatch(root: Path, pyproject: Mapping[str, Any]) -> str:
    """By the source "regex" (Hatch's manual, "Versioning"); "code", "env" and plug-ins depend on more than files."""
    table = table_in(pyproject, "tool", "hatch", "version")
    source = table.get("source", "regex")
    if source != "regex":
        raise scm_version.only_code("tool.hatch.version", "source", source)
    expression = table.get("pattern")
    if not expression or expression is True:
        expression = _HATCH
    return _searched(root, table.get("path"), expression, "version", "tool.hatch.version")


def _pdm(root: Path, pyproject: Mapping[str, Any]) -> str:
    """By the source "file" (pdm-backend's manual, "Dynamic project version")."""
    table = table_in(pyproject, "tool", "pdm", "version")
    if table.get("source", "file") != "file":
        raise scm_version.only_code("tool.pdm.version", "source", table["source"])
    return _searched(root, table.get("path"), table.get("pattern") or _PDM, "version", "tool.pdm.version")


def _flit(root: Path, pyproject: Mapping[str, Any]) -> str:
    """`__version__` of the module that the project is (flit's manual, "The pyproject.toml config file")."""
    module = table_in(pyproject, "tool", "flit", "metadata").get("module")
    if not module:
        name = str(table_in(pyproject, "project").get("name", ""))
        module = table_in(pyproject, "tool", "flit", "module").get("name") or name.replace("-", "_")
    return attribute(root, f"{module}.__version__")


def _poetry(_: Path, pyproject: Mapping[str, Any]) -> str:
    """`version` of [tool.poetry], unless a plug-in of Poetry's replaces it at each build."""
    plug_in = table_in(pyproject, "tool", "poetry-dynamic-versioning")
    if plug_in.get("enable"):
        raise scm_version.only_code("tool.poetry-dynamic-versioning", "enable", plug_in["enable"])
    version = table_in(pyproject, "tool", "poetry").get("version")
    return version if isinstance(version, str) else ""


def _meson(root: Path, _: Mapping[str, Any]) -> str:
    """`version` of project() in meson.build, which meson-python takes (its manual, "Project metadata")."""
    project = meson_file.project(root)
    if project.version_file:
        return source_files.text(root, project.version_file).strip()
    if project.version_expression:
        raise scm_version.only_code("meson.build: project()", "version", project.version_expression)
    return project.version


_READERS: Mapping[str, Callable[[Path, Mapping[str, Any]], str]] = {
    "hatchling": _hatch,
    "pdm": _pdm,
    "flit_core": _flit,
    "poetry": _poetry,
    "poetry_dynamic_versioning": _poetry,
    "mesonpy": _meson,
}


# ---- the ways to a version


def directed(root: Path, way: str, value: str) -> str:
    """The version that a directive of setuptools points to; empty if it is not there.

    `way` is `file`, with a path such as VERSION, or `attr`, with a name such as package.__version__ and a plain value.
    """
    return source_files.text(root, value).strip() if way == "file" else attribute(root, value)


def _searched(root: Path, path: object, expression: object, group: str, table: str) -> str:
    """What the group of an expression matches in a file of the tree; empty where it matches nothing."""
    if not (isinstance(path, str) and path and isinstance(expression, str)):
        return ""
    text = source_files.text(root, path)
    if expression in (_SCIKIT_BUILD, _HATCH, _PDM):  # the farm's own, which end
        match = re.search(expression, text, re.MULTILINE)
        return match[group] if match else ""
    try:
        matched = regex.find(expression, text, group, flags=re.MULTILINE)
    except regex.RegexError as error:
        raise VersionError(
            "the source's own expression cannot be searched for",
            where=f"{root}: [{table}]: {error}",
            next_step="set version in [tool.torch-build-farm] to what the source computes",
        ) from None
    return matched[0] if matched else ""
