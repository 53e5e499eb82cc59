"""Whether a wheel can serve a torch minor and all later ones: torch's stable ABI alone, and no CPython of its own.

Functions of the C shim keep their meaning once they are there (torch/csrc/stable/README.md); names of torch's C++
interface do not, whichever of the known releases export them.
"""

from __future__ import annotations

from torch_build_farm.audit.demangle import demangled, prepare
from torch_build_farm.audit.loader import Contents, policy
from torch_build_farm.audit.read_wheel import AuditedWheel
from torch_build_farm.audit.tables import AuditTables
from torch_build_farm.audit.verdict import Library, LibraryKind, Names, describe_library

_SHOWN = 5  # names of each library
_WIDTH = 100  # characters of a name


def problems(wheel: AuditedWheel, known: AuditTables) -> list[str]:
    """Why the wheel cannot serve every later torch, a sentence each; [] for a wheel that can."""
    known = known.for_machine(wheel.machine)
    reasons = []
    single = sorted({str(tag) for tag in wheel.tags if tag.abi not in ("abi3", "none")})
    if single:
        reasons.append(
            f"the tag {single[0]} is for one CPython, and later torch minors have others: build for the limited API "
            "(wheel.py-api of scikit-build-core, py_limited_api of setuptools), or without Python's API, as py3-none"
        )
    contents = Contents(wheel.libraries, wheel.requires)
    names = Names.of(known.symbols, wheel.libraries.values())
    for path in sorted(wheel.libraries):
        library = describe_library(path, contents, names, known.types)
        if library.kind is LibraryKind.TORCH:
            reasons.append(f"{path} uses torch's C++ interface: {_cxx_names(library, names)}")
    return reasons


def _cxx_names(library: Library, names: Names) -> str:
    """The first names of torch's C++ interface that a library needs, as people read them."""
    mangled = []
    for symbol in library.open:
        if names.is_torchs(symbol.name) and not policy().shim.fullmatch(symbol.name):
            mangled.append(symbol.name)
    if not mangled:
        return "it passes at::Tensor to other libraries of the wheel"
    shown = sorted(mangled)[:_SHOWN]
    prepare(shown)
    texts = []
    for name in shown:
        text = demangled(name)
        texts.append(text if len(text) <= _WIDTH else f"{text[:_WIDTH]}...")
    more = len(mangled) - len(shown)
    return ", ".join(texts) + (f" and {more} more" if more else "")
