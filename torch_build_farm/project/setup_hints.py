"""What setup.py, or the script of another back end, says of the build to somebody who writes a project file.

It is read as data.
"""

from __future__ import annotations

import ast
import contextlib
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from torch_build_farm.core.toml import table_in
from torch_build_farm.project import build_script, setup_script, source_files
from torch_build_farm.project.dynamic_version import back_end
from torch_build_farm.project.import_names import can_be_a_module

_READS = r"""(?:getenv\(|environ\.get\(|environ\[)\s*["'](?P<name>\w+)["']"""
_VARIABLE = re.compile(_READS)
# Behind the name: a default, the closing bracket, and what the value is compared with.
_COMPARED = re.compile(_READS + r"""\s*(?:,\s*["'][^"'\n]*["']\s*)?[)\]]\s*==\s*["'](?P<value>\w+)["']""")
_DOWNLOADS = re.compile(r"\burlretrieve\b|\burlopen\b|\brequests\.get\b|\bhf_hub_download\b|\bgdown\b")
_FORCES_BUILD = re.compile(r"\w*FORCE_BUILD")
_FORCES_CUDA = re.compile(r"(?:\w+_)?FORCE_CUDA(?:_EXTENSIONS?)?")
_CPP_EXTENSION = re.compile(r"\bcpp_extension\b")
# In every build: Python's own, and what the farm adds. In one of setup.py: setuptools' too.
_THERE = {*sys.stdlib_module_names, "distutils", "packaging", "torch"}
_SETUPTOOLS = {"pkg_resources", "setuptools"}
# Arguments of setup(), and keys of setuptools' table, for what is installed outside of packages, by the kind of folder.
_OUTSIDE = {
    "data_files": "data", "data-files": "data", "scripts": "scripts", "script-files": "scripts", "headers": "headers",
}  # fmt: skip


@dataclass(frozen=True)
class SetupHints:
    """What `script`, such as setup.py, says.

    `variables` are those that it reads; `forces_build` and `forces_cuda` are some of them, with their values.
    `downloads`: it fetches something. `outside` are kinds of folders that files go into outside of packages: "scripts",
    "data", "headers". `undeclared` are modules that it imports and that no build requirement brings, `conditional` such
    that it imports in some cases. `lacks_setuptools`: the build uses torch.utils.cpp_extension, which imports
    setuptools, and neither the back end nor a build requirement brings that. `asks_for_gpu`: it calls
    torch.cuda.is_available(). `options` are those that setup.py looks for on its command line.
    """

    script: str
    variables: tuple[str, ...]
    forces_build: Mapping[str, str]
    forces_cuda: Mapping[str, str]
    downloads: bool
    outside: tuple[str, ...]
    undeclared: tuple[str, ...]
    conditional: tuple[str, ...]
    lacks_setuptools: bool
    asks_for_gpu: bool
    options: tuple[str, ...]


def find(
    project: Path, pyproject: Mapping[str, Any], build_requires: Iterable[str] = (), cmake: str = ""
) -> SetupHints:
    """The hints of the project in a folder; `build_requires` are all that it declares, also in setup().

    `cmake` is the text of the CMake files that its build runs. Raises SourceError where its script cannot be read.
    """
    script = build_script.name(pyproject)
    text = source_files.text(project, script)
    variables = sorted({match["name"] for match in _VARIABLE.finditer(text)})
    values = {match["name"]: match["value"] for match in _COMPARED.finditer(text)}
    build_system = table_in(pyproject, "build-system")
    declared = build_system.get("requires", [])
    there = _THERE | _SETUPTOOLS if script == "setup.py" else _THERE
    imported, conditional = setup_script.imports(project, script), setup_script.conditional_imports(project, script)
    own_back_end = "backend-path" in build_system  # which may bring what no file declares
    setuptools_is_there = (
        own_back_end or back_end(pyproject) == "setuptools" or not _undeclared(project, {"setuptools"}, declared)
    )
    uses_cpp_extension = bool(_CPP_EXTENSION.search(text) or _CPP_EXTENSION.search(cmake))
    return SetupHints(
        script=script,
        variables=tuple(variables),
        forces_build={name: values.get(name, "1") for name in variables if _FORCES_BUILD.fullmatch(name)},
        forces_cuda={name: values.get(name, "1") for name in variables if _FORCES_CUDA.fullmatch(name)},
        downloads=bool(_DOWNLOADS.search(text)),
        outside=tuple(sorted(set(_outside(project, pyproject)))),
        undeclared=tuple(sorted(_undeclared(project, imported - there, declared))),
        conditional=() if own_back_end else tuple(sorted(_undeclared(project, conditional - there, build_requires))),
        lacks_setuptools=uses_cpp_extension and not setuptools_is_there,
        asks_for_gpu=any(_asks_for_gpu(call) for call in setup_script.calls(project, script)),
        options=tuple(sorted(setup_script.options(project))) if script == "setup.py" else (),
    )


def _undeclared(project: Path, modules: Iterable[str], requirements: Iterable[str]) -> set[str]:
    """Those of the modules that neither the project nor a declared requirement brings."""
    declared = set()
    for text in requirements:
        with contextlib.suppress(InvalidRequirement):
            declared.add(canonicalize_name(Requirement(text).name))
    undeclared = set()
    for module in filter(can_be_a_module, modules):
        own = (project / module).is_dir() or (project / f"{module}.py").is_file()
        if not own and canonicalize_name(module) not in declared:
            undeclared.add(module)
    return undeclared


def _asks_for_gpu(call: ast.Call) -> bool:
    match call.func:
        case ast.Attribute(ast.Attribute(attr="cuda") | ast.Name(id="cuda"), "is_available"):
            return True
    return False


def _outside(project: Path, pyproject: Mapping[str, Any]) -> Iterator[str]:
    for call in setup_script.calls(project, "setup.py"):
        if setup_script.called(call) == "setup":
            yield from (_OUTSIDE[keyword.arg] for keyword in call.keywords if keyword.arg in _OUTSIDE)
    for key in table_in(pyproject, "tool", "setuptools"):
        if key in _OUTSIDE:
            yield _OUTSIDE[key]
    sections = re.findall(r"^\[options\.(data_files)\]|^(scripts)\s*=", source_files.text(project, "setup.cfg"), re.M)
    yield from (_OUTSIDE[section or key] for section, key in sections)
