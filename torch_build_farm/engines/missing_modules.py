"""Which Python module a failed build lacked, by its log, and how the build gets it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from torch_build_farm.core.errors import BuildError

# The last line of CPython's traceback; of some programs the words alone. Modules of an error's chain come before it.
_NO_MODULE = re.compile(r"^\s*(?:\w+: )?(?:ModuleNotFoundError|ImportError): No module named '?([\w.]{1,200})'?")
_NO_NAME = re.compile(
    r"^\s*(?:\w+: )?ImportError: cannot import name '(?P<name>\w{1,200})' from '(?P<module>[\w.]{1,200})'"
)
# The front end's words where the back end cannot be imported.
_NO_BACK_END = re.compile(r"^(?:ERROR )?Backend '(\w{1,200})[\w.:]{0,400}' is not available")
# What brings modules that build scripts import and that are called otherwise than their distribution. setuptools has no
# pkg_resources from 82.0.0 on (its news of that release).
_BROUGHT_BY = {
    "Crypto": "pycryptodome",
    "PIL": "pillow",
    "_cffi_backend": "cffi",
    "distutils": "setuptools",
    "git": "GitPython",
    "google.protobuf": "protobuf",
    "mesonpy": "meson-python",
    "pdm": "pdm-backend",
    "pkg_resources": "setuptools<82",
    "poetry": "poetry-core",
    "skbuild": "scikit-build",
    "yaml": "PyYAML",
}
_TABLE = "[tool.torch-build-farm]"


def lacks_module(what: str, lines: Sequence[str], where: str) -> BuildError | None:
    """The error for a build whose output names a Python module that is missing; None where it names none."""
    for line in reversed(lines):
        match = _NO_MODULE.match(line) or _NO_BACK_END.match(line)
        if match:
            module = match[1]
            return BuildError(
                f"{what}: the build imports the module {module}, which its environment does not have",
                where=where,
                next_step=_how_to_bring(module),
            )
        match = _NO_NAME.match(line)
        if match:
            distribution = match["module"].partition(".")[0]
            return BuildError(
                f"{what}: the build imports {match['name']} of {match['module']}, which has no such name",
                where=where,
                next_step=_hold_to_a_version(distribution),
            )
    return None


def _how_to_bring(module: str) -> str:
    """The setting that brings a module."""
    top = module.partition(".")[0]
    if module == "torch":
        return (
            "torch is in the build environment alone: let the build run that environment's python and no other. In a "
            "container before-build runs ahead of it, without torch"
        )
    if module in _BROUGHT_BY:
        return f'build-requires = ["{_BROUGHT_BY[module]}"] in {_TABLE}'
    if top != module:
        return f"{_hold_to_a_version(top)}; if {top} is not there at all, put what brings it into build-requires"
    return (
        f'build-requires = ["{module}"] in {_TABLE}, with the name of the distribution that brings the module where '
        "that is another"
    )


def _hold_to_a_version(distribution: str) -> str:
    name = _BROUGHT_BY.get(distribution, distribution)
    return f'build-constraints = ["{name}==VERSION"] in {_TABLE}, with a version that has it'
