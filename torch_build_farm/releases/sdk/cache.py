"""The SDKs of the store: made once of torch's wheel on the index, kept by their content, and proven before each use."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from torch_build_farm import __version__
from torch_build_farm.core.errors import UnknownTorchError, nearest
from torch_build_farm.core.files import replace_text, sha256
from torch_build_farm.core.package_index import PackageIndex
from torch_build_farm.core.store import TorchStore
from torch_build_farm.core.versions import CPython
from torch_build_farm.releases.listing import Listing
from torch_build_farm.releases.sdk import CONSTRAINTS, VARIABLE, exported_names, members, wheel

_SCHEMA = 2


@dataclass(frozen=True)
class Sdk:
    """An SDK: its wheel, alone in its folder but for the constraint that keeps others out; both named by its SHA-256.

    `made_of` is torch's wheel by file name and SHA-256, as the index states it; `fetched` bytes came from there.
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
        """Holds the wheel and the constraint."""
        return self.wheel.parent


def _note(store: TorchStore, release: str, python: CPython) -> Path:
    return store.root / "sdk" / f"{release}-{python.tag}.json"


def _identity(index: PackageIndex) -> str:
    """Which index an SDK is of: another may have its own torch under the same name. A hash, as URLs hold secrets."""
    return hashlib.sha256(repr((index.first, index.url)).encode()).hexdigest()


def find(store: TorchStore, release: str, python: CPython, index: PackageIndex) -> Sdk | None:
    """The SDK that the store has of this index's torch.

    None where it has none, or one that another version of the farm made or that is not as it was.
    """
    try:
        note = json.loads(_note(store, release, python).read_text("utf-8"))
        if (note.pop("schema"), note.pop("farm"), note.pop("index")) != (_SCHEMA, __version__, _identity(index)):
            return None
        found = Sdk(**{**note, "wheel": store.root / "sdk" / note["sha256"] / note["wheel"]})
        return found if _intact(found.wheel, found.sha256) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _intact(path: Path, digest: str) -> bool:
    """Whether a wheel is whole, with its constraint beside it."""
    return path.is_file() and sha256(path) == digest and path.with_name(CONSTRAINTS).is_file()


def lock_of(release: str, python: CPython) -> str:
    """Name of the store's lock that one holds to make an SDK."""
    return f"sdk-{release}-{python.tag}"


def get(store: TorchStore, release: str, python: CPython, index: PackageIndex, say: Callable[[str], None]) -> Sdk:
    """The SDK of a release, made now unless the store has it. Hold the store's lock `lock_of(release, python)`.

    Raises PackageIndexError where torch's wheel cannot be read in parts, UnknownTorchError where there is none,
    SdkError where what would be made is not right.
    """
    return find(store, release, python, index) or make(store, release, python, index, say)


def make(store: TorchStore, release: str, python: CPython, index: PackageIndex, say: Callable[[str], None]) -> Sdk:
    """The same, made anew."""
    files = Listing.read(index).release(release).wheels
    if python.tag not in files:
        raise UnknownTorchError(
            f"torch {release} has no wheel for CPython {python}",
            where="the package index",
            next_step=nearest(python.tag, sorted(files)),
        )
    file, start = files[python.tag], time.monotonic()
    stated = str((file.digests or {}).get("sha256", ""))
    with index.open_wheel(file) as remote:
        taken = members.read(remote)
        libraries = exported_names.from_tables(release, python.tag, stated) or exported_names.from_wheel(remote)
        fetched = remote.fetched
    made = wheel.contents(taken, libraries, file.filename)
    scratch = store.root / "sdk" / f".{release}-{python.tag}"
    shutil.rmtree(scratch, ignore_errors=True)  # a killed farm's
    scratch.mkdir(parents=True)
    path = scratch / wheel.filename_of(file.filename)
    wheel.write(path, made)
    (scratch / CONSTRAINTS).write_text(f"torch @ file://${{{VARIABLE}}}/{path.name}\n", "utf-8")
    digest = sha256(path)
    final = store.root / "sdk" / digest
    if not _intact(final / path.name, digest):  # else another version of the farm made the same, and may use it
        shutil.rmtree(final, ignore_errors=True)
        scratch.rename(final)
    shutil.rmtree(scratch, ignore_errors=True)
    found = Sdk(release, python.tag, final / path.name, digest, file.filename, stated, fetched)
    _remember(_note(store, release, python), found, index)
    say(f"torch's SDK {release}: {fetched / 1e6:.1f} MB, {time.monotonic() - start:.1f} s")
    return found


def _remember(note: Path, sdk: Sdk, index: PackageIndex) -> None:
    content = {
        "schema": _SCHEMA,
        "farm": __version__,
        "index": _identity(index),
        **asdict(sdk),
        "wheel": sdk.wheel.name,
    }
    replace_text(note, json.dumps(content, indent=1))
