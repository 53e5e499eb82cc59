"""auditwheel, with torch and CUDA left out by policy data; then everything that makes a wheel unfit for users."""

from __future__ import annotations

import re
import shutil
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import files
from pathlib import Path, PurePosixPath

from torch_build_farm.core import tools as toolbox
from torch_build_farm.core.errors import RepairError
from torch_build_farm.core.log import STAGE_MARK
from torch_build_farm.core.process import Shell
from torch_build_farm.project.settings import Settings
from torch_build_farm.wheels import wheel as wheels

# auditwheel keeps a library's name and puts the start of its hash into it: libgomp-24e2ab19.so.1.0.0.
_GRAFT_HASH = re.compile(r"-[0-9a-f]{8}(?=\.so)")
_NO_LIBRARY = "does not look like a platform wheel"  # auditwheel's words


@dataclass(frozen=True)
class Policy:
    """Patterns of library names that are somebody else's to bring."""

    torch: tuple[str, ...]
    cuda: tuple[str, ...]
    cuda_torch_only: tuple[str, ...]

    @property
    def external(self) -> tuple[str, ...]:
        return (*self.torch, *self.cuda)


@cache
def policy() -> Policy:
    """The policy that comes with the farm (data/policy.toml)."""
    table = tomllib.loads(files("torch_build_farm").joinpath("data/policy.toml").read_text("utf-8"))
    return Policy(tuple(table["torch"]), tuple(table["cuda"]), tuple(table["cuda-torch-only"]))


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _bundled(wheel: wheels.Wheel, settings: Settings) -> list[str]:
    """Shared libraries in the wheel that are torch's, CUDA's, or grafted without leave.

    A library counts by its file name, its SONAME and its name before auditwheel put a hash into it.
    """
    problems = []
    for library in wheel.libraries:
        path = PurePosixPath(library.path)
        names = {path.name, library.soname, _GRAFT_HASH.sub("", path.name)} - {""}
        for owner, patterns in (("torch", policy().torch), ("CUDA", policy().cuda)):
            if any(_matches(name, patterns) for name in names):
                problems.append(f"{library.path} is a library of {owner}, which must not be in the wheel")
        if path.parts[0].endswith(".libs") and not any(_matches(n, settings.grafted_libraries) for n in names):
            problems.append(
                f"{library.path} was grafted from the build machine; if that is meant, "
                f"add {_GRAFT_HASH.sub('', path.name).split('.so')[0]}.so* to grafted-libraries"
            )
    return problems


def _run_paths(wheel: wheels.Wheel) -> list[str]:
    """RPATH and RUNPATH entries that mean nothing, or something else, on the user's machine."""
    problems = []
    for library in wheel.libraries:
        for entry in library.run_paths:
            if not entry:
                problems.append(f"{library.path} has an empty RUNPATH entry, which means the current folder")
            elif not entry.startswith(("$ORIGIN", "${ORIGIN}")):
                problems.append(
                    f"{library.path} has the RUNPATH entry {entry}, a place on the build machine; "
                    "set CMAKE_INSTALL_RPATH, or CMAKE_SKIP_INSTALL_RPATH=ON in cmake-defines"
                )
    return problems


def _top_level(wheel: wheels.Wheel, settings: Settings) -> list[str]:
    """Files outside the project's packages, where another distribution may have files of the same name."""
    packages = {name.split(".")[0] for name in settings.packages}
    stray: dict[str, int] = {}
    for member in wheel.members:
        parts = PurePosixPath(member).parts
        if parts[0].endswith(".data") and len(parts) > 2:
            if parts[1] == "scripts":
                continue
            parts = parts[2:] if parts[1] in ("purelib", "platlib") else (f"{parts[1]}/{parts[2]}",)
        top = parts[0]
        module = top.split(".")[0] if len(parts) == 1 else top
        if not (module in packages or top.endswith((".dist-info", ".libs"))):
            stray[top] = stray.get(top, 0) + 1
    return [
        f"{top} ({count} file{'s' if count > 1 else ''}) lies outside the packages {', '.join(sorted(packages))}"
        for top, count in sorted(stray.items())
    ]


def problems(
    wheel: wheels.Wheel, settings: Settings, expected: Iterable[str] = (), builders: Iterable[str] = ()
) -> list[str]:
    """Every reason why the wheel is unfit for users, a sentence each; none for a good one.

    `expected` are members that the wheel must have, `builders` folders of the build that no member may name.
    """
    found = [
        f"{path} is in the source but not in the wheel, so Python would take the folder for a namespace package; "
        "name the packages in the build back end's settings (scikit-build-core: wheel.packages)"
        for path in expected
        if path not in wheel.members
    ]
    found += [*_bundled(wheel, settings), *_run_paths(wheel), *_top_level(wheel, settings)]
    found += [
        f"{member} names {folder}, a folder of the build: users have none such, and the same sources built elsewhere "
        "give another file"
        for member, folder in wheels.naming(wheel.path, builders).items()
    ]
    found += wheels.record_problems(wheel.path)
    size = wheel.path.stat().st_size / 1e6
    if size > settings.size_limit_mb:
        found.append(f"the wheel has {size:.1f} MB, over size-limit-mb = {settings.size_limit_mb}")
    if settings.torch_flavours == "any":
        for library in wheel.libraries:
            for needed in library.needed:
                if _matches(needed, policy().cuda_torch_only):
                    found.append(
                        f"{library.path} needs {needed}, which a CPU torch has not; link to torch_cpu and c10, or set "
                        'torch-flavours = "cuda"'
                    )
    return found


def command(auditwheel: str, raw: str, out: str) -> list[str]:
    """The auditwheel call that gives wheel `raw` its tag and puts it into folder `out`."""
    excluded = [word for pattern in policy().external for word in ("--exclude", pattern)]
    return [auditwheel, "repair", "--wheel-dir", out, *excluded, raw]


def failure(log: Path, tail: Sequence[str]) -> RepairError:
    """Why auditwheel refused the wheel, told from the log's last stage."""
    text = log.read_text("utf-8", "replace")
    lines = [line for line in text[text.rfind(STAGE_MARK) :].splitlines() if not line.startswith("cibuildwheel:")]
    if any(_NO_LIBRARY in line for line in lines):
        return without_library("the wheel", log)
    lines = [line for line in lines if "rror" in line or "annot" in line]
    return RepairError(
        f"auditwheel cannot repair the wheel: {(lines or list(tail) or ['no reason given'])[-1]}",
        where=str(log),
        next_step="a library that it cannot find must be installed, or linked statically",
    )


def without_library(name: str, where: Path) -> RepairError:
    """The error for a wheel that has nothing to do with torch's ABI."""
    return RepairError(
        f"{name} holds no compiled library, so nothing in it depends on torch's version",
        where=str(where),
        next_step="check what the build installs; a pure Python project needs no variants",
    )


def repair(
    raw: Path,
    out: Path,
    scratch: Path,
    *,
    settings: Settings,
    expected: Iterable[str],
    builders: Iterable[str],
    shell: Shell | None,
) -> wheels.Wheel:
    """Let auditwheel give `raw` its tag in folder `scratch`, check the result and put it into `out`.

    `expected` and `builders` are as in `problems`. Without `shell` the engine has let auditwheel do so
    already. Raises RepairError with every reason why the wheel is unfit.
    """
    if not wheels.read(raw).libraries:
        raise without_library(raw.name, raw)
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        if shell:
            done = shell.run(*command(str(toolbox.scripts() / "auditwheel"), str(raw), str(scratch)))
            if not done.ok:
                raise failure(shell.log, done.tail)
        else:
            shutil.copyfile(raw, scratch / raw.name)
        (made,) = scratch.glob("*.whl")
        wheel = wheels.read(made)
        if found := problems(wheel, settings, expected, builders):
            raise RepairError(
                f"{raw.name} is not fit for users:\n" + "\n".join(f"  - {p}" for p in found), where=str(raw)
            )
        final = out / made.name
        made.replace(final)
        return wheels.read(final)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
