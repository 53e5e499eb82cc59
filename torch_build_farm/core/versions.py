"""Names that every room uses: torch minors and CPythons, as tags and as people write them, and the engines."""

from __future__ import annotations

import re
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

from torch_build_farm.core.errors import UsageError

ENGINES = ("docker", "local")
FLAVOUR = r"cu[1-9]\d{2,3}"  # the local part of torch's versions for a CUDA: cu126, cu1210


@dataclass(frozen=True, order=True)
class Minor:
    """A minor version of torch, or one flavour of it. They sort as versions.

    A minor exists for several CUDAs. `flavour` is the local part of the versions of one that the default index does not
    have: "cu126" for 2.9.1+cu126. `str` gives "2.10" and "2.9:cu126", `tag` "torch210" and "torch29-cu126".
    """

    major: int
    minor: int
    flavour: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read "2.10" or "2.9:cu126"; ValueError for anything else."""
        match = re.fullmatch(rf"(0|[1-9]\d*)\.(0|[1-9]\d*)(?::({FLAVOUR}))?", text)
        if not match:
            raise ValueError(f"{text!r} is not a torch minor such as 2.8 or 2.10, nor one's flavour such as 2.9:cu126")
        return cls(int(match[1]), int(match[2]), match[3] or "")

    @property
    def number(self) -> str:
        """The minor without its flavour: "2.9"."""
        return f"{self.major}.{self.minor}"

    @property
    def tag(self) -> str:
        return f"torch{self.major}{self.minor}{f'-{self.flavour}' if self.flavour else ''}"

    @property
    def of_default_index(self) -> Self:
        """The minor as the default index has it."""
        return replace(self, flavour="")

    @property
    def any_release(self) -> str:
        """Whatever release of the minor, as a version: "2.10.*"."""
        return f"{self.number}.*"

    @property
    def pin(self) -> str:
        """The specifier that admits this minor alone, in every flavour: "==2.10.*".

        Resolvers cannot tell flavours: 2.9.1+cu126 satisfies ==2.9.* as well (PEP 440, "Local version identifiers").
        Public indexes refuse a requirement that names one. Unlike >=2.10,<2.11 it also admits vendors' pre-releases.
        """
        return f"=={self.any_release}"

    def __str__(self) -> str:
        return f"{self.number}:{self.flavour}" if self.flavour else self.number


@dataclass(frozen=True, order=True)
class CPython:
    """A minor of CPython; `free_threaded` is the build without the GIL. `str` gives "3.13t", `tag` gives "cp313t"."""

    major: int
    minor: int
    free_threaded: bool = False

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read "3.13", "3.13t", "cp313" or "cp313t"; ValueError for anything else."""
        match = re.fullmatch(r"(\d)\.(\d+)(t?)", text) or re.fullmatch(r"cp(\d)(\d+)(t?)", text)
        if not match:
            raise ValueError(f"{text!r} is not a CPython such as 3.12, 3.13t or cp312")
        return cls(int(match[1]), int(match[2]), bool(match[3]))

    @classmethod
    def running(cls) -> Self:
        """The CPython that runs this code."""
        free_threaded = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
        return cls(sys.version_info.major, sys.version_info.minor, free_threaded)

    @property
    def tag(self) -> str:
        return f"cp{self.major}{self.minor}{'t' if self.free_threaded else ''}"

    @property
    def release(self) -> str:
        """The version that requires-python is compared with."""
        return f"{self.major}.{self.minor}"

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}{'t' if self.free_threaded else ''}"


def parse_pythons(words: Sequence[str]) -> tuple[CPython, ...]:
    """The CPythons that --python names, such as 3.12 and 3.13t. Raises UsageError for a word that does not name one."""
    try:
        return tuple(CPython.parse(word) for word in words)
    except ValueError as error:
        raise UsageError(str(error), where="--python", next_step="such as --python 3.12 3.13t") from None
