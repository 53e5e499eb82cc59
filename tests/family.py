"""Stand-in variants, made by the farm's own relocation and meta from wheels without compiled code; torch's likewise."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from tests.conftest import CHECKOUT
from torch_build_farm.core.machine import ARM64
from torch_build_farm.core.process import Runner, Shell
from torch_build_farm.core.versions import Minor
from torch_build_farm.core.wheel_archive import write_wheel
from torch_build_farm.project.settings import Project, load
from torch_build_farm.wheels import one_name
from torch_build_farm.wheels.relocate import relocate

EPOCH = 1_000_000_000


def project(name: str = "demo", *packages: str, stable_abi: str = "") -> Project:
    loaded = load(CHECKOUT, CHECKOUT)
    floor = Minor.parse(stable_abi) if stable_abi else None
    settings = replace(
        loaded.settings, name=name, packages=packages or (name,), torch_flavours="cuda", stable_abi=floor
    )
    return replace(loaded, settings=settings)


def with_arm64(own: Project, *minors: str, cuda: str | None = None) -> Project:
    """The project with variants for arm64, of these minors: as for x86-64, except for `cuda` where it is given."""
    described = {}
    for minor in map(Minor.parse, minors):
        facts = own.described[minor]
        described[minor] = replace(facts, platform=ARM64, cuda=facts.cuda if cuda is None else cuda)
    return replace(own, by_platform={**own.by_platform, ARM64: described})


def describe_arm64(folder: Path, *tags: str) -> None:
    """Write variants files for arm64 into a project, of these minors such as "torch29", with the facts for x86-64."""
    (folder / "variants").mkdir(exist_ok=True)
    for tag in tags:
        facts = (CHECKOUT / "variants" / f"{tag}.toml").read_text()
        (folder / "variants" / f"{tag}-aarch64.toml").write_text(f'platform = "aarch64"\n{facts}')


def make_wheel(
    folder: Path, name: str, version: str, files: Mapping[str, str | bytes], *fields: str, tag: str = "py3-none-any"
) -> Path:
    """A wheel of these files; those under "info/" go into its .dist-info folder."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{name.replace('-', '_')}-{version}"
    metadata = "\n".join(["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *fields]) + "\n"
    members: dict[str, str | bytes] = {**files, "info/METADATA": metadata, "info/RECORD": ""}
    members["info/WHEEL"] = f"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: {tag}\n"
    infos = [
        (
            zipfile.ZipInfo(place.replace("info/", f"{stem}.dist-info/", 1)),
            content if isinstance(content, bytes) else content.encode(),
        )
        for place, content in members.items()
    ]
    path = folder / f"{stem}-{tag}.whl"
    write_wheel(path, infos)
    return path


def torch(folder: Path, version: str) -> Path:
    return make_wheel(
        folder, "torch", version, {"torch/__init__.py": "from .version import __version__\n",
                                   "torch/version.py": f"__all__ = []\n__version__ = '{version}'\n"},
    )  # fmt: skip


def variant(
    folder: Path,
    own: Project,
    torch: str,
    version: str,
    files: Mapping[str, str | bytes],
    *fields: str,
    tag: str = "py3-none-any",
) -> Path:
    """The relocated wheel of a variant, as `relocate` makes it of what a back end would have built.

    The minor `stable-abi` of the project stands for the variant of the stable ABI.
    """
    minor = Minor.parse(torch)
    serving = own.variants[minor] if minor == own.settings.stable_abi else minor
    name = own.distribution(serving)
    raw = make_wheel(
        folder / "raw",
        name,
        version,
        files,
        "Requires-Python: >=3.9,<3.15",
        f"Requires-Dist: torch{serving.pin}",
        *fields,
        tag=tag,
    )
    (folder / "scratch").mkdir(exist_ok=True)
    shell = Shell(Runner(), {}, folder, folder / "log", lambda _: None)
    return relocate(raw, folder, folder / "scratch", settings=own.settings, tag=serving.tag, shell=shell)


def family(own: Project, model: Path, last: Mapping[str, str]) -> one_name.Family:
    return one_name.Family.of(own, model, {Minor.parse(torch): version for torch, version in last.items()}, EPOCH)
