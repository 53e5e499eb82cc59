"""One class per failure, each with an exit code of its own: what failed, where, and what to do next."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import ClassVar


class FarmError(Exception):
    """A failure that the person at the keyboard can act on.

    `what` says what failed, `where` names the file, key, job or log, `next_step` says what to do.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, *, where: str = "", next_step: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.next_step = next_step

    def __str__(self) -> str:
        lines = [self.what]
        if self.where:
            lines.append(f"  where: {self.where}")
        if self.next_step:
            lines.append(f"  next:  {self.next_step}")
        return "\n".join(lines)


class InternalError(FarmError):
    """A bug in the farm itself; the traceback is in the job's log."""

    exit_code = 1


class UsageError(FarmError):
    """The command line asks for something that makes no sense."""

    exit_code = 2


class ConfigError(FarmError):
    """A settings or variants file is wrong; every problem found in it is in `what`, a line each."""

    exit_code = 3


class UnknownTorchError(FarmError):
    """A torch minor is asked for that no variants file describes."""

    exit_code = 4


class NoPythonError(FarmError):
    """A variant is left without a CPython that project, torch and engine all have."""

    exit_code = 5


class SourceError(FarmError):
    """The project's source is missing or is no Python project."""

    exit_code = 6


class VersionError(FarmError):
    """The source does not say its version."""

    exit_code = 7


class ToolError(FarmError):
    """Something that the build needs on this machine is not there: a compiler, headers, a CUDA toolkit, a package."""

    exit_code = 8


class DiskError(FarmError):
    """The disk is too small, became full, or does not let the farm use a folder of its own."""

    exit_code = 9


def out_of_reach(error: OSError) -> DiskError:
    """The error for a file or folder of the farm's that the system does not let it use."""
    return DiskError(
        f"{error.strerror}",
        where=str(error.filename),
        next_step="see that it can be read and written, or name other folders: --work DIR, TORCH_BUILD_FARM_STORE=DIR",
    )


class PackageIndexError(FarmError):
    """The package index cannot be reached, or lacks what it should have."""

    exit_code = 10


class LockedError(FarmError):
    """Another farm works in the same work folder."""

    exit_code = 11


class RenderError(FarmError):
    """A template or the project's own metadata cannot be rendered."""

    exit_code = 12


class BuildError(FarmError):
    """The build stopped for a reason that is none of the more telling ones below."""

    exit_code = 13


class CompileError(BuildError):
    """The compiler, the linker or CMake refused the sources."""

    exit_code = 14


class OutOfMemoryError(BuildError):
    """A compiler was killed, or gave up, for want of memory."""

    exit_code = 15


class RepairError(FarmError):
    """The wheel is not fit for users; every reason is in `what`, a line each."""

    exit_code = 16


class SmokeError(FarmError):
    """The wheel does not install, import or compute as it should, or is not refused where it should be."""

    exit_code = 17


class EngineError(FarmError):
    """The Docker engine does not answer, cannot be used, or went away; or somebody killed a container of the farm."""

    exit_code = 18


class ImageError(FarmError):
    """A container image cannot be pulled or made, or lacks what builds need."""

    exit_code = 19


class CudaToolkitError(FarmError):
    """A project with CUDA sources finds no CUDA toolkit of torch's major."""

    exit_code = 20


class NotReproducedError(FarmError):
    """A wheel that was built again from its record differs; everything in which it does is in `what`, a line each."""

    exit_code = 21


class RelocationError(FarmError):
    """A wheel has files that every variant would own, or cannot be moved into the variant's folder."""

    exit_code = 22


class MetaError(FarmError):
    """The wheels behind the one name cannot be made of what there is."""

    exit_code = 23


class PublishError(FarmError):
    """What is built may not be published, or is not what the index then has."""

    exit_code = 24


class UploadRefusedError(FarmError):
    """The index refused an upload for good: credentials, a name of somebody else's, a name that is not registered."""

    exit_code = 25


class AuditError(FarmError):
    """A wheel, or what the farm knows of torch's releases, cannot be read."""

    exit_code = 26


class AbiError(FarmError):
    """A wheel does not work with a torch release that it claims to work with."""

    exit_code = 27


NEWS_EXIT_CODE = 28  # of `discover`, which fails at nothing: the package index has something new


class EditedError(FarmError):
    """A file that the farm rendered earlier was changed since, or is somebody else's."""

    exit_code = 29


class SdkError(FarmError):
    """torch's SDK cannot be made, or is not as it was made; nothing is built with it."""

    exit_code = 30


class Interrupted(FarmError):  # noqa: N818 (not an error of anyone's)
    """SIGINT or SIGTERM arrived; the exit code is the shell's convention, 128 + the signal's number."""

    def __init__(self, signal_number: int = 2) -> None:
        super().__init__(
            "interrupted: everything that ran is stopped, finished stages are kept",
            next_step="run the same command again to go on",
        )
        self.signal_number = signal_number

    @property
    def code(self) -> int:
        return 128 + self.signal_number


def exit_code(error: FarmError) -> int:
    """Exit code for `error`."""
    return error.code if isinstance(error, Interrupted) else error.exit_code


def nearest(wrong: str, valid: Iterable[str]) -> str:
    """The sentence that helps with a wrong name: the nearest valid one, else all of them."""
    names = list(valid)
    close = get_close_matches(wrong, names, n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(names)}"
