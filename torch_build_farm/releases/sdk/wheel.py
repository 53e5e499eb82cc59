"""An SDK as a wheel: torch's own headers and CMake files, stubs for its libraries, and a torch that refuses to run.

Its version is the release's with the local version "sdk", which satisfies every requirement that the release does
(PEP 440, "Version matching") and is told from it at a glance. It requires nothing.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

from packaging.utils import parse_wheel_filename

from torch_build_farm.core.errors import SdkError
from torch_build_farm.core.wheel_archive import write_wheel
from torch_build_farm.releases.sdk import LOCAL, REFUSAL, version_of
from torch_build_farm.releases.sdk.exported_names import Library
from torch_build_farm.wheels.elf import stub
from torch_build_farm.wheels.elf.stub import Stub

_VERSION = re.compile(r"^(__version__ = ')([^'+]+)[^']*'$", re.MULTILINE)
_WITHOUT = 'torch-build = "full" in [tool.torch-build-farm] does without'
_DATE = (1980, 1, 1, 0, 0, 0)


def filename_of(torchs: str) -> str:
    """File name of the SDK that is made of torch's wheel."""
    name, version, _, _ = parse_wheel_filename(torchs)
    return "-".join([name, version_of(str(version)), *torchs.removesuffix(".whl").split("-")[-3:]]) + ".whl"


def _stubs(libraries: Mapping[str, Library]) -> dict[str, bytes]:
    """Each is read again before it counts. Raises SdkError for one that is not as torch's own library."""
    made = {}
    for name, library in libraries.items():
        needed = tuple(other for other in library.needed if other in libraries)
        wanted = Stub(name, needed, library.names, REFUSAL)
        content = stub.assemble(wanted)
        if problem := stub.problem(content, wanted):
            raise SdkError(f"the stub of {name} is wrong: {problem}", next_step=_WITHOUT)
        made[f"torch/lib/{name}"] = content
    return made


def _version_module(content: bytes, release: str) -> bytes:
    text, count = _VERSION.subn(rf"\g<1>\g<2>+{LOCAL}'", content.decode())
    if count != 1 or f"'{version_of(release)}'" not in text:
        raise SdkError(f"torch/version.py of torch {release} does not say {release}", next_step=_WITHOUT)
    return text.encode()


def _modules(members: Mapping[str, bytes], libraries: Mapping[str, Library], release: str) -> dict[str, bytes]:
    """The Python that says no."""
    folder = files("torch_build_farm").joinpath("data/sdk")
    new_strings = any("__cxx11" in name for name in libraries["libc10.so"].names)  # libstdc++'s ABI of 2015
    own = folder.joinpath("torch.py.in").read_text("utf-8")
    return {
        "torch/__init__.py": own.replace("@RELEASE@", release).replace("@CXX11_ABI@", str(new_strings)).encode(),
        "torch/utils/__init__.py": folder.joinpath("utils.py.in").read_bytes(),
        "torch/version.py": _version_module(members["torch/version.py"], release),
    }


def _metadata(members: Mapping[str, bytes], release: str, tags: str) -> dict[str, bytes]:
    own = f"torch-{version_of(release)}.dist-info"
    (theirs,) = [path for path in members if path.endswith(".dist-info/METADATA")]
    python = re.search(r"^Requires-Python: .*$", members[theirs].decode(), re.MULTILINE)
    lines = ["Metadata-Version: 2.1", "Name: torch", f"Version: {version_of(release)}",
             f"Summary: Headers, CMake files and link stubs of torch {release}; nothing in it runs",
             *([python[0]] if python else [])]  # fmt: skip
    wheel = ["Wheel-Version: 1.0", "Generator: torch-build-farm", "Root-Is-Purelib: false", f"Tag: {tags}"]
    licenses = {
        f"{own}/{path.partition('.dist-info/')[2]}": content
        for path, content in members.items()
        if ".dist-info/" in path and path != theirs
    }
    texts = {f"{own}/METADATA": lines, f"{own}/WHEEL": wheel}
    return licenses | {path: ("\n".join(rows) + "\n").encode() for path, rows in texts.items()}


def contents(members: Mapping[str, bytes], libraries: Mapping[str, Library], torchs: str) -> dict[str, bytes]:
    """Every file of the SDK that is made of torch's wheel `torchs` (a file name), by path. Raises SdkError."""
    release = str(parse_wheel_filename(torchs)[1])
    if "libtorch_python.so" not in libraries or "libc10.so" not in libraries:
        raise SdkError(f"{torchs} has no libtorch_python.so or libc10.so", next_step=_WITHOUT)
    tags = "-".join(torchs.removesuffix(".whl").split("-")[-3:])
    kept = {path: content for path, content in members.items() if path.startswith("torch/")}
    return {**kept, **_modules(members, libraries, release), **_stubs(libraries), **_metadata(members, release, tags)}


def write(path: Path, contents: Mapping[str, bytes]) -> None:
    """Write the wheel with its RECORD (PEP 427). The same contents give the same bytes."""
    (info,) = {member.partition("/")[0] for member in contents if member.endswith(".dist-info/WHEEL")}
    members = [(_entry(member), contents[member]) for member in sorted(contents)]
    write_wheel(path, [*members, (_entry(f"{info}/RECORD"), b"")])


def _entry(member: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(member, _DATE)
    entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o100644 << 16
    return entry
