"""Whether a wheel for several CPythons keeps to their limited API (PEP 384), and whether each finds its modules.

abi3info has the names of the limited API with the release that each joined in. A library that uses another name loads
only with the CPythons that happen to export it, and crashes where the name's meaning has changed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from packaging.tags import Tag
from packaging.utils import parse_wheel_filename

from torch_build_farm.wheels.machine_code import MachineCode
from torch_build_farm.wheels.wheel import Wheel

_SHOWN = 8  # names in a message
# CPython's importlib takes a file with this suffix in the release that it names alone (PEP 3149).
_FOR_ONE_CPYTHON = re.compile(r"\.cpython-\d+[a-z]*(?:-[^/.]*)?\.so$")


def limited_api_problems(wheel: Wheel, code: MachineCode) -> list[str]:
    """What is wrong in a wheel for several CPythons: the modules that one alone finds, in one sentence, and what each
    library uses beyond the limited API that its tag or file name promises.
    """
    _, _, _, tags = parse_wheel_filename(wheel.path.name)
    for_all_libraries = any(tag.abi in ("abi3", "none") for tag in tags)
    lowest = min((_version(tag.interpreter) for tag in tags), default=(3, 2))
    problems = _single_modules(wheel, tags)
    for path, names in code.python_names.items():
        # The loader of CPython takes a file with this suffix, whichever its own version is.
        if not (for_all_libraries or path.endswith(".abi3.so")):
            continue
        beyond = _beyond(names - code.exported, lowest)
        if beyond:
            api = f"Python {lowest[0]}.{lowest[1]}" if lowest > (3, 2) else "Python 3"
            problems.append(
                f"{path} is for several CPythons, by its name or the wheel's tag, and uses names outside the limited "
                f"API of {api}: {_listed(beyond)}; define Py_LIMITED_API where it is compiled "
                "(pybind11 does not keep to it), or have the back end tag the wheel for one CPython"
            )
    return problems


def _single_modules(wheel: Wheel, tags: Iterable[Tag]) -> list[str]:
    """The modules that one CPython alone finds, in a wheel that others install too; one sentence for all of them."""
    for_several = sorted(str(tag) for tag in tags if tag.abi == "abi3" or tag.interpreter.startswith("py"))
    single = [library.path for library in wheel.libraries if _FOR_ONE_CPYTHON.search(library.path)]
    if not (for_several and single):
        return []
    return [
        f"{_listed(single)}: by the name, one CPython alone finds it, and the wheel's tag "
        f"{for_several[0]} is for several; build it for the limited API (py_limited_api of its Extension, USE_SABI of "
        "CMake's python_add_library), or have the back end tag the wheel for one CPython"
    ]


def _listed(names: Sequence[str]) -> str:
    others = f" and {len(names) - _SHOWN} others" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + others


def _version(interpreter: str) -> tuple[int, int]:
    """The version of a Python tag such as cp39; (3, 2), which the limited API began with, for one such as py3."""
    match = re.fullmatch(r"cp(\d)(\d+)", interpreter)
    return (int(match[1]), int(match[2])) if match else (3, 2)


def _beyond(names: Iterable[str], lowest: tuple[int, int]) -> list[str]:
    """Those of the names that the limited API of a version lacks, each with the version that brings it, if one does."""
    # Imported here: only wheels for several CPythons need it.
    from abi3info import DATAS, FUNCTIONS  # noqa: PLC0415
    from abi3info.models import Symbol  # noqa: PLC0415

    beyond = []
    for name in sorted(names):
        entry = FUNCTIONS.get(Symbol(name)) or DATAS.get(Symbol(name))
        if entry is None:
            beyond.append(name)
        # A wheel that does not say its oldest CPython is not measured by one.
        elif (3, 2) < lowest < (entry.added.major, entry.added.minor):
            beyond.append(f"{name} (from {entry.added.major}.{entry.added.minor} on)")
    return beyond
