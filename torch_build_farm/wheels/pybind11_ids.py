"""The ids under which pybind11's modules share their types, as they stand in compiled code.

Modules of one id see each other's classes; to a module of another id they are unknown types. The id is made of a
version of pybind11's internals, the compiler and the C++ ABI (pybind11's detail/internals.h, PYBIND11_INTERNALS_ID).
"""

from __future__ import annotations

import mmap
import re

# A string of its own: the names of pybind11's other keys continue it (`..._call_once_storage__`).
_ID = re.compile(rb"__pybind11_internals_v[0-9]{1,4}(?:_[A-Za-z0-9]{1,64}){1,16}__(?=\0)")


def internals_ids(content: bytes | mmap.mmap) -> frozenset[str]:
    """The ids in a library; more than one where it is linked from objects of several versions."""
    return frozenset(match[0].decode("ascii") for match in _ID.finditer(content))
