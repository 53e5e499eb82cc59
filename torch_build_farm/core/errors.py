"""One class per failure, each with an exit code of its own: what failed, where, and what to do next.

docs/reference/errors.md is generated from this file (project/reference.py): the first paragraph of a class's docstring
is its meaning there, the second what to do.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable
from difflib import get_close_matches
from typing import ClassVar

from torch_build_farm.core.text import printable, printable_lines

_LONGEST_WORD, _MOST_WORDS = 200, 1000
ERRORS_PAGE = "docs/reference/errors.md"


class FarmError(Exception):
    """A failure that the person at the keyboard can act on.

    `what` is what failed, `where` names the file, key, job or log, `next_step` is what to do about it.
    """

    exit_code: ClassVar[int] = 1

    @classmethod
    def anchor(cls) -> str:
        """The error's anchor in docs/reference/errors.md: OutOfMemoryError -> "out-of-memory"."""
        words = re.findall(r"[A-Z][a-z]*", cls.__name__.removesuffix("Error"))
        return "-".join(words).lower()

    def __init__(self, what: str, *, where: str = "", next_step: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.next_step = next_step

    def __str__(self) -> str:
        """For people: what strangers have in it is visible. The attributes hold it as it is."""
        lines = [printable_lines(self.what)]
        if self.where:
            lines.append(f"  where: {printable(self.where)}")
        if self.next_step:
            lines.append(f"  next:  {printable_lines(self.next_step)}")
        lines.append(f"  docs:  {ERRORS_PAGE}#{self.anchor()}")
        return "\n".join(lines)


class InternalError(FarmError):
    """A bug in the farm itself.

    Report it, with the traceback: it is in the file that the message names, and of a job in its log.
    """

    exit_code = 1


class UsageError(FarmError):
    """The command line, or a call of the Python API, makes no sense.

    The message names the word that is wrong; `--help` after a command lists what it takes.
    """

    exit_code = 2


class ConfigError(FarmError):
    """The settings or a variants file are wrong, or contradict themselves.

    The message lists every problem in every file, a line each. Settings and variants each have a page of this
    reference.
    """

    exit_code = 3


class UnknownTorchError(FarmError):
    """No variants file describes the torch minor.

    Name another minor, or describe this one: `add MINOR` writes its variants file.
    """

    exit_code = 4


class NoPythonError(FarmError):
    """No CPython is left for a variant: project, torch and machine (or image) have none in common.

    Name another with `--python`, install one with its headers, or widen the project's requires-python.
    """

    exit_code = 5


class SourceError(FarmError):
    """The source tree or smoke script is missing or not a Python project, or git or an sdist gives another tree than
    the pinned one.

    Correct `source`, `git` and `revision`, or `sdist` in the settings.
    """

    exit_code = 6


class VersionError(FarmError):
    """The source does not state its version.

    Write `version` into `[project]`, use setuptools-scm, or set `version` in the farm's settings.
    """

    exit_code = 7


class ToolError(FarmError):
    """The machine lacks something that the build needs: a compiler, Python headers, a system package.

    Install what the message names; `doctor` lists everything at once. In containers, `system-packages` installs
    packages.
    """

    exit_code = 8


class DiskError(FarmError):
    """The disk is too small or became full, or the farm cannot use one of its folders: the system does not let it, or
    somebody else owns or may write it.

    Free some space (`clean`), or name other folders: `--work DIR`, `TORCH_BUILD_FARM_STORE=DIR`. Where the disk is
    too small the farm stops before it starts anything.
    """

    exit_code = 9


class PackageIndexError(FarmError):
    """The package index does not answer, or lacks what it should have.

    Check the network, proxy and certificates, and which index uv is configured for.
    """

    exit_code = 10


class LockedError(FarmError):
    """Another farm works in the same work folder or store.

    Wait for it (`--wait`), or use another `--work`.
    """

    exit_code = 11


class RenderError(FarmError):
    """A template, or the project's own metadata, cannot be rendered.

    Correct the template or the requirement that the message names.
    """

    exit_code = 12


class BuildError(FarmError):
    """The build failed for another reason than those with a code of their own.

    The job's log has the whole output of the build.
    """

    exit_code = 13


class CompileError(BuildError):
    """The compiler, the linker or CMake refused the sources.

    The message has the first error, the job's log all of them. Fix the source and run again; other jobs are kept.
    """

    exit_code = 14


class OutOfMemoryError(BuildError):
    """A compiler was killed, or gave up, for want of memory.

    Use `--jobs 1`, or set a truer `memory-per-compile-gb`; in containers it sets their memory limit too.
    """

    exit_code = 15


class RepairError(FarmError):
    """The wheel is not fit for users; the message has every reason, a line each.

    When a build fails (how-to) explains what to change for each of them.
    """

    exit_code = 16


class SmokeError(FarmError):
    """The wheel does not install, import or compute as it should, or is not refused beside another torch.

    The job's log has the output of the test. The wheel stays, so that you can look at it.
    """

    exit_code = 17


class EngineError(FarmError):
    """The Docker engine cannot be used, cannot run a job's platform or went away, or somebody stopped a container.

    Start the engine and check that `docker version` works for you; `ci/qemu` lets it run programs for
    another platform; `--engine local` does without.
    """

    exit_code = 18


class ImageError(FarmError):
    """A container image cannot be pulled or made, or lacks what builds need.

    Check its name and the way to its registry. `ci/base-image` makes an image here; `--engine local` needs none.
    """

    exit_code = 19


class CudaToolkitError(FarmError):
    """The project has CUDA sources, and the CUDA toolkit is none of torch's major version, or too old for them.

    Containers have one by default: as wheels for CUDA 13, in the image of the variant's `cuda-image` for CUDA 12. Name
    another image there or with `--base-image`, or install a toolkit on the machine.
    """

    exit_code = 20


class NotReproducedError(FarmError):
    """A wheel that was built again from its record differs; the message has every difference, a line each.

    Compare the toolchain and the build environment, which the message names first where they changed.
    """

    exit_code = 21


class RelocationError(FarmError):
    """A wheel has files that every variant would own, such as scripts, or cannot be moved into its variant's folder.

    Install those files inside a package; replace a script by an entry point.
    """

    exit_code = 22


class MetaError(FarmError):
    """The wheels behind the one name cannot be made: a development version, or no variant of the version.

    Build the variants of a released version first.
    """

    exit_code = 23


class PublishError(FarmError):
    """A wheel lacks its records, the index has another file of its name, or what the index serves does not install.

    Build and test what is missing; where the index has another file, publish as another build number or version.
    """

    exit_code = 24


class UploadRefusedError(FarmError):
    """The index refuses an upload for good: credentials, a name of somebody else, a name that is not registered.

    Correct the credentials, or register the name with the index first.
    """

    exit_code = 25


class AuditError(FarmError):
    """A wheel, or what the farm knows of torch's releases, cannot be read.

    Check that the file is a whole wheel; `index add RELEASE` reads a release's tables again.
    """

    exit_code = 26


class AbiError(FarmError):
    """A wheel does not work with a torch release that it claims to work with.

    Audit verdicts (reference) explains the reasons. Build for that minor too, or narrow what the wheel claims.
    """

    exit_code = 27


NEWS_EXIT_CODE = 28  # of `discover`, which does not fail: a minor is missing, changed or yanked


class EditedError(FarmError):
    """A file that the farm rendered earlier was changed since, or is not the farm's.

    Keep the change elsewhere, or write over it with `--force`.
    """

    exit_code = 29


class SdkError(FarmError):
    """torch's SDK cannot be made, is not as it was made, or lacks what a build with `torch-build = "sdk"` asked for.

    Set `torch-build` to `"auto"` or `"full"`.
    """

    exit_code = 30


class UnsafeNameError(FarmError):
    """A name out of a record, an archive, an index or a work folder leads out of the folder that it belongs to.

    The farm does not write it: somebody else did, or the file is damaged. Find out where it comes from, then remove it.
    """

    exit_code = 31


class LimitError(FarmError):
    """The system gives the farm no more open files, processes or memory.

    Raise the limit that the message names (`ulimit -a` lists them), or run fewer jobs at a time with `--jobs`.
    """

    exit_code = 32


class PackError(FarmError):
    """A pack of finished jobs cannot be made, or is not the one that its job vouches for.

    Pack jobs that are built and smoke-tested; accept the packs of one run by the SHA-256 that `pack` printed for each.
    """

    exit_code = 34


class CoreError(FarmError):
    """The core, which the variants add to, is not there, or is not without torch.

    Mend the core's own job first: its log and its error say what is wrong. Variants whose core failed are not started.
    """

    exit_code = 35


class Interrupted(FarmError):  # noqa: N818 (not an error of anyone's)
    """SIGINT or SIGTERM arrived: everything is stopped, and finished stages are kept.

    Run the same command again; it continues where it stopped. The exit code follows the shell's convention: 128 and
    the signal's number.
    """

    def __init__(self, signal_number: int = 2) -> None:
        super().__init__(
            "interrupted: everything that ran is stopped, finished stages are kept",
            next_step="run the same command again to go on",
        )
        self.signal_number = signal_number

    @property
    def code(self) -> int:
        """128 and the signal's number."""
        return 128 + self.signal_number


def out_of_reach(error: OSError) -> DiskError:
    """The error for a file or folder of the farm's that the system does not let it use."""
    return DiskError(
        f"{error.strerror}",
        where=os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else "",
        next_step=f"see that it can be read and written, or {_OTHER_FOLDERS}",
    )


_OTHER_FOLDERS = "name other folders: --work DIR, TORCH_BUILD_FARM_STORE=DIR"
_FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the quota of this user is used up",
    errno.EFBIG: "a file may not grow any further; `ulimit -f` shows the limit",
}
_BROKEN = {errno.EIO, errno.EROFS, errno.ESTALE, errno.ENODEV, errno.ENXIO}  # a disk that fails, or is gone
_LIMITS = {
    errno.EMFILE: "too many open files in this process; `ulimit -n` shows and raises the limit",
    errno.ENFILE: "too many open files on this machine",
    errno.EAGAIN: "no more processes; `ulimit -u` shows the limit",
    errno.ENOMEM: "out of memory",
}


def of_the_machine(error: BaseException) -> FarmError | None:
    """The error for an exception that the machine is to blame for: its disk, limits or permissions.

    None for one that only a bug explains.
    """
    if isinstance(error, MemoryError):
        return LimitError("out of memory", next_step="give the farm more memory, or run fewer jobs: --jobs 1")
    if isinstance(error, RuntimeError) and "Symlink loop" in str(error):  # pathlib's, before Python 3.13
        return DiskError(str(error), next_step=f"remove the link, or {_OTHER_FOLDERS}")
    return _of_the_system(error) if isinstance(error, OSError) else None


def _of_the_system(error: OSError) -> FarmError | None:
    where = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else ""
    # shutil.Error, which copytree raises, has no errno but the messages of all its files.
    if error.errno in _FULL or "No space left on device" in str(error):
        what = _FULL.get(error.errno or errno.ENOSPC, "the disk is full")
        return DiskError(what, where=where, next_step=f"free some space (`clean`), or {_OTHER_FOLDERS}")
    if error.errno in _LIMITS:
        return LimitError(_LIMITS[error.errno], where=where, next_step="raise the limit, or run fewer jobs: --jobs 1")
    if error.filename:
        return out_of_reach(error)
    if error.errno in _BROKEN:
        return DiskError(f"the disk cannot be used: {error.strerror}", next_step=_OTHER_FOLDERS)
    if "temporary directory" in str(error):  # tempfile's, where none of its places can be written
        return DiskError(str(error.strerror), next_step="set TMPDIR to a folder that can be written")
    return None


def exit_code(error: FarmError) -> int:
    """Exit code for `error`."""
    return error.code if isinstance(error, Interrupted) else error.exit_code


def nearest(wrong: str, valid: Iterable[str]) -> str:
    """The sentence that helps with a wrong name: the nearest valid one, else all of them."""
    names = list(valid)
    # Comparing takes the product of both lengths, and the word may be anybody's.
    close = get_close_matches(wrong[:_LONGEST_WORD], names[:_MOST_WORDS], n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(names)}"
