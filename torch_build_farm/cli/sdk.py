"""`sdk`: torch's SDK of a release, for people who want it by itself."""

from __future__ import annotations

import time
import zipfile
from dataclasses import asdict
from pathlib import Path

from packaging.version import InvalidVersion, Version

from torch_build_farm.cli.context import Context
from torch_build_farm.core.errors import UsageError
from torch_build_farm.core.files import replace_folder
from torch_build_farm.core.package_index import PackageIndex
from torch_build_farm.core.process import Shell
from torch_build_farm.core.versions import CPython, Minor
from torch_build_farm.releases.listing import Listing
from torch_build_farm.releases.sdk import cache
from torch_build_farm.releases.sdk.cache import Sdk


def _release(text: str, index: PackageIndex) -> str:
    """The release that is meant: of a minor the one that the farm builds against, its oldest."""
    try:
        minor = Minor.parse(text)
    except ValueError:
        pass
    else:
        return Listing.read(index).usable(minor)[0].name
    try:
        return str(Version(text))
    except InvalidVersion:
        raise UsageError(f"{text!r} is no version", where="sdk", next_step="such as sdk 2.9 or sdk 2.9.1") from None


def _pythons(asked: list[str]) -> list[CPython]:
    try:
        return [CPython.parse(text) for text in asked] or [CPython.running()]
    except ValueError as error:
        raise UsageError(str(error), where="--python", next_step="such as --python 3.12 3.13t") from None


def _unpacked(sdk: Sdk, out: Path) -> Path:
    """The SDK's files in a folder of their own, whole or not at all; returns CMake's prefix."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError("there is something already", where=str(out), next_step="name an empty folder with --out")
    try:
        with replace_folder(out) as scratch, zipfile.ZipFile(sdk.wheel) as archive:
            archive.extractall(scratch)
    except OSError as error:
        raise UsageError(f"cannot be written: {error.strerror}", where=str(out), next_step="name another DIR") from None
    return out / "torch" / "share" / "cmake"


def sdk(context: Context) -> int:
    """`sdk`: make one, or take the store's; with --out unpack it."""
    options, index = context.options, PackageIndex.configured()
    pythons = _pythons(options.python or [])
    if options.out and len(pythons) > 1:
        raise UsageError("one folder holds one SDK", where="--out", next_step="name one CPython with --python")
    start = time.monotonic()
    release = _release(options.torch, index)
    made = []
    store = context.store
    with store.in_use():
        for python in pythons:
            log = store.root / "sdk.log"
            shell = Shell(context.runner, {}, store.root, log, context.say)
            with store.locked(cache.lock_of(release, python), shell):
                made.append(cache.get(store, release, python, index, context.say))
        prefix = _unpacked(made[0], Path(options.out).resolve()) if options.out else None
    rows = [{**asdict(one), "wheel": str(one.wheel)} for one in made]
    if options.json:
        context.answer({"schema": 1, "sdks": rows, "cmake_prefix_path": str(prefix) if prefix else None})
    for one in made:
        context.say(f"{one.wheel}\n  of {one.made_of}, sha256 {one.sha256}")
    if prefix:
        context.say(f"find_package(Torch) finds it with CMAKE_PREFIX_PATH={prefix}")
    context.say(f"{index.traffic.fetched / 1e6:.1f} MB in {time.monotonic() - start:.1f} s")
    return 0
