"""The SDKs in the store: made once from torch's wheel on the index, named by their SHA-256, checked before each use.

sdk/SHA256/            an SDK's wheel, and the constraint that keeps every other torch out of the build
sdk/RELEASE-TAG.json   which SDK belongs to a release and a CPython, and what it was made from
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from torch_build_farm import __version__
from torch_build_farm.core.errors import UnknownTorchError, UnsafeNameError, nearest
from torch_build_farm.core.files import replace_text, sha256
from torch_build_farm.core.machine import X86_64, Machine
from torch_build_farm.core.package_index import PackageIndex
from torch_build_farm.core.paths import file_in
from torch_build_farm.core.store import TorchStore
from torch_build_farm.core.versions import CPython
from torch_build_farm.releases import torch_wheel
from torch_build_farm.releases.listing import Listing, flavour_of
from torch_build_farm.releases.sdk import CONSTRAINTS, VARIABLE, exported_names, members, wheel

_SCHEMA = 3  # 2 was of a file that was not compared with the index's SHA-256


@dataclass(frozen=True)
class Sdk:
    """An SDK: its wheel, in a folder that is named by the wheel's SHA-256 and holds its constraint, and nothing else.

    `python` is a CPython's tag. `made_of` is torch's wheel by file name, `made_of_sha256` its SHA-256 as the package
    index states it; `fetched` bytes came from there.
    """

    release: str
    python: str
    wheel: Path
    sha256: str
    made_of: str
    made_of_sha256: str
    fetched: int

    @property
    def folder(self) -> Path:
        """The folder with the wheel and the constraint."""
        return self.wheel.parent


def find(
    store: TorchStore, release: str, python: CPython, index: PackageIndex, *, machine: Machine = X86_64
) -> Sdk | None:
    """The SDK that the store has for this index's torch on Linux for `machine`.

    None if it has none, if another version of the farm made it, or if it was changed or damaged since.
    """
    try:
        note = json.loads(_note_path(store, release, python, machine).read_text("utf-8"))
        # The SDK of another version of the farm may be made in another way.
        if (note.pop("schema"), note.pop("farm"), note.pop("index")) != (_SCHEMA, __version__, _index_identity(index)):
            return None
        wheel_path = file_in(file_in(store.root / "sdk", note["sha256"]), note["wheel"])
        sdk = Sdk(**{**note, "wheel": wheel_path})
        is_named_so_today = sdk.wheel.name == wheel.filename_of(sdk.made_of, machine)
        return sdk if is_named_so_today and _is_intact(sdk.wheel, sdk.sha256) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, UnsafeNameError):
        return None


def get(
    store: TorchStore, release: str, python: CPython, index: PackageIndex, say: Callable[[str], None], *,
    machine: Machine = X86_64,
) -> Sdk:  # fmt: skip
    """The SDK of a release, made now unless the store has it. Hold the store's lock of `lock_name`.

    `say` gets a line when an SDK has been made. Raises PackageIndexError if torch's wheel cannot be read or is not
    the one that the index means, UnknownTorchError if there is none, SdkError if the SDK would not be right.
    """
    return find(store, release, python, index, machine=machine) or make(
        store, release, python, index, say, machine=machine
    )


def lock_name(release: str, python: CPython, machine: Machine = X86_64) -> str:
    """The name of the store's lock to hold while an SDK is made."""
    return f"sdk-{release}-{python.tag}{machine.suffix}"


def make(
    store: TorchStore, release: str, python: CPython, index: PackageIndex, say: Callable[[str], None], *,
    machine: Machine = X86_64,
) -> Sdk:  # fmt: skip
    """Make the SDK of a release, whether or not the store has it. Lock and errors are those of `get`."""
    start = time.monotonic()
    wheels = Listing.read(index, flavour_of(release), machine=machine).release(release).wheels
    if python.tag not in wheels:
        raise UnknownTorchError(
            f"torch {release} has no wheel for CPython {python}",
            where="the package index",
            next_step=nearest(python.tag, sorted(wheels)),
        )
    file = wheels[python.tag]
    sha256_of_torch = torch_wheel.stated_sha256(file)
    # Most releases are in the tables. The names of others are read from parts of the libraries, which no RECORD lists:
    # so the whole wheel has to be the one that the index means.
    # The tables for arm64 have names alone, and a stub needs the kind of each.
    libraries = exported_names.from_tables(release, python.tag, sha256_of_torch) if machine == X86_64 else {}
    with torch_wheel.opened(file, index, store.root / "sdk", say, whole=not libraries) as remote:
        torch_members = members.read(remote)
        if not libraries:
            libraries = exported_names.from_wheel(remote)
        fetched = remote.fetched
    contents = wheel.contents(torch_members, libraries, file.filename, machine)

    scratch = store.root / "sdk" / f".{release}-{python.tag}-{machine.name}"
    shutil.rmtree(scratch, ignore_errors=True)  # left by a farm that was killed
    scratch.mkdir(parents=True)
    path = file_in(scratch, wheel.filename_of(file.filename, machine))
    wheel.write(path, contents)
    # A constraint reaches the environment of a build, and one with a URL leaves uv no other torch to choose.
    (scratch / CONSTRAINTS).write_text(f"torch @ file://${{{VARIABLE}}}/{path.name}\n", "utf-8")

    digest = sha256(path)
    folder = store.root / "sdk" / digest
    # Another version of the farm may have made the same wheel, and may be using it: it stays.
    if not _is_intact(folder / path.name, digest):
        shutil.rmtree(folder, ignore_errors=True)
        scratch.rename(folder)
    shutil.rmtree(scratch, ignore_errors=True)
    sdk = Sdk(release, python.tag, folder / path.name, digest, file.filename, sha256_of_torch, fetched)
    _write_note(_note_path(store, release, python, machine), sdk, index)
    say(f"torch's SDK {release}: {fetched / 1e6:.1f} MB, {time.monotonic() - start:.1f} s")
    return sdk


def _is_intact(path: Path, digest: str) -> bool:
    """Whether a wheel has that SHA-256, and its constraint is beside it."""
    return path.is_file() and sha256(path) == digest and path.with_name(CONSTRAINTS).is_file()


def _note_path(store: TorchStore, release: str, python: CPython, machine: Machine) -> Path:
    return store.root / "sdk" / f"{release}-{python.tag}{machine.suffix}.json"


def _write_note(path: Path, sdk: Sdk, index: PackageIndex) -> None:
    """Write what `find` needs to know of an SDK."""
    note = {
        "schema": _SCHEMA,
        "farm": __version__,
        "index": _index_identity(index),
        **asdict(sdk),
        "wheel": sdk.wheel.name,
    }
    replace_text(path, json.dumps(note, indent=1))


def _index_identity(index: PackageIndex) -> str:
    """Which index an SDK is from: another may have its own torch under the same name. A hash, as URLs hold secrets."""
    return hashlib.sha256(repr((index.first, index.url)).encode()).hexdigest()
