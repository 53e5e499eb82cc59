"""`sdk`: an SDK of a torch release, for people who want it by itself."""

from __future__ import annotations

import time
import zipfile
from dataclasses import dataclass
from pathlib import Path

from packaging.version import InvalidVersion, Version

from torch_build_farm.cli.answer import Answer
from torch_build_farm.cli.arguments import (
    CommonOptions,
    Parser,
    add_common_arguments,
    add_list_argument,
    add_platform_argument,
    optional_path,
)
from torch_build_farm.cli.command import Command
from torch_build_farm.cli.context import Context
from torch_build_farm.core.errors import UsageError
from torch_build_farm.core.files import replace_folder
from torch_build_farm.core.machine import Machine, named
from torch_build_farm.core.package_index import PackageIndex
from torch_build_farm.core.process import Shell
from torch_build_farm.core.versions import CPython, Minor, parse_pythons
from torch_build_farm.releases.listing import Listing
from torch_build_farm.releases.sdk import cache
from torch_build_farm.releases.sdk.cache import Sdk


@dataclass(frozen=True, kw_only=True)
class SdkOptions(CommonOptions):
    """Options of `sdk`."""

    torch: str
    python: tuple[str, ...]
    platform: str
    out: Path | None


def _configure_parser(parser: Parser) -> None:
    add_common_arguments(parser)
    parser.add_argument("torch", metavar="RELEASE", help="a torch release (2.9.1) or minor (2.9: its oldest release)")
    add_list_argument(parser, "--python", "X.Y", "CPythons (default: the running one)")
    add_platform_argument(parser)
    parser.add_argument(
        "--out", type=optional_path, metavar="DIR", help="unpack the SDK into this folder, for CMAKE_PREFIX_PATH"
    )


@dataclass(frozen=True, kw_only=True)
class SdkAnswer(Answer):
    """The document of `sdk`; `cmake_prefix_path` is null without --out."""

    platform: str
    sdks: tuple[Sdk, ...]
    cmake_prefix_path: Path | None


def _release(text: str, index: PackageIndex, machine: Machine) -> str:
    """The torch release that `text` names; for a minor, the one that the farm builds against: its oldest."""
    try:
        minor = Minor.parse(text)
    except ValueError:
        pass
    else:
        return Listing.read(index, minor.flavour, machine=machine).usable(minor)[0].name
    try:
        return str(Version(text))
    except InvalidVersion:
        raise UsageError(f"{text!r} is not a version", where="sdk", next_step="such as sdk 2.9 or sdk 2.9.1") from None


def _unpack(sdk: Sdk, out: Path) -> Path:
    """Unpack the SDK into an empty or new folder, completely or not at all, and return CMake's prefix path.

    Raises UsageError for a folder that is not empty or cannot be written.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError("the folder is not empty", where=str(out), next_step="name an empty folder with --out")
    try:
        with replace_folder(out) as scratch, zipfile.ZipFile(sdk.wheel) as archive:
            archive.extractall(scratch)
    except OSError as error:
        raise UsageError(f"cannot be written: {error.strerror}", where=str(out), next_step="name another DIR") from None
    return out / "torch" / "share" / "cmake"


def _sdk(context: Context, options: SdkOptions) -> int:
    """`sdk`: make an SDK for each CPython, or take it from the store; with --out, unpack it."""
    index = PackageIndex.configured()
    pythons = parse_pythons(options.python) or (CPython.running(),)
    if options.out and len(pythons) > 1:
        raise UsageError("one folder holds one SDK", where="--out", next_step="name one CPython with --python")
    start = time.monotonic()
    machine = named(options.platform)
    release = _release(options.torch, index, machine)
    store = context.store
    sdks = []
    with store.in_use():
        shell = Shell(context.runner, {}, store.root, store.root / "sdk.log", context.say)
        for python in pythons:
            # Two farms that need the same SDK make it once: the second waits, and finds it in the store.
            with store.locked(cache.lock_name(release, python, machine), shell):
                sdks.append(cache.get(store, release, python, index, context.say, machine=machine))
        prefix = _unpack(sdks[0], options.out.resolve()) if options.out else None

    context.answer(SdkAnswer(platform=machine.name, sdks=tuple(sdks), cmake_prefix_path=prefix))
    for sdk in sdks:
        context.say(f"{sdk.wheel}\n  of {sdk.made_of}, sha256 {sdk.sha256}")
    if prefix:
        context.say(f"find_package(Torch) finds it with CMAKE_PREFIX_PATH={prefix}")
    context.say(f"{index.traffic.fetched / 1e6:.1f} MB in {time.monotonic() - start:.1f} s")
    return 0


COMMANDS = {"sdk": Command(SdkOptions, _configure_parser, _sdk, SdkAnswer)}
