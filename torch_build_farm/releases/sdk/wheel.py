"""An SDK as a wheel: torch's own headers and CMake files, stubs for its libraries, and a torch that refuses to run.

Its version is the release's with the local version "sdk", which satisfies every requirement that the release does
(PEP 440, "Version matching") and is easy to recognize. It requires nothing.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable, Mapping
from importlib.resources import files
from pathlib import Path

from packaging.utils import parse_wheel_filename

from torch_build_farm.core.errors import SdkError
from torch_build_farm.core.machine import X86_64, Machine
from torch_build_farm.core.wheel_archive import write_wheel
from torch_build_farm.releases.sdk import LOCAL, REFUSAL, version_of
from torch_build_farm.releases.sdk.exported_names import LibraryExports
from torch_build_farm.wheels.elf import stub
from torch_build_farm.wheels.elf.stub import Stub

# The SDK's local version takes the place of torch's own, as in 2.9.0+cu128.
_VERSION = re.compile(r"^(__version__ = ')([^'+\n]+)[^'\n]*'$", re.MULTILINE)
_NEXT_STEP = 'torch-build = "full" in [tool.torch-build-farm] builds without the SDK'
_DATE = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip file can have: the same wheel every time


def _tags(torch_filename: str, machine: Machine) -> str:
    """The tags of the SDK that is made from torch's wheel of that file name: its own on x86-64.

    An SDK for another machine installs on every one, since a compiler that makes code for it may run anywhere.
    """
    interpreter, abi, platform = torch_filename.removesuffix(".whl").split("-")[-3:]
    return f"{interpreter}-{abi}-{platform}" if machine == X86_64 else f"{interpreter}-none-any"


def filename_of(torch_filename: str, machine: Machine = X86_64) -> str:
    """The file name of the SDK that is made from torch's wheel of that file name, which is for `machine`."""
    name, version, _, _ = parse_wheel_filename(torch_filename)
    return f"{name}-{version_of(str(version))}-{_tags(torch_filename, machine)}.whl"


def contents(
    members: Mapping[str, bytes],
    libraries: Mapping[str, LibraryExports],
    torch_filename: str,
    machine: Machine = X86_64,
) -> dict[str, bytes]:
    """Every file of an SDK by path, except RECORD.

    `members` are those of torch's wheel for `machine`, by path; `libraries` its libraries, by file name. Raises
    SdkError if they lack something, or if a stub is not as torch's own library.
    """
    _, version, _, _ = parse_wheel_filename(torch_filename)
    release = str(version)
    if "libtorch_python.so" not in libraries or "libc10.so" not in libraries:
        raise SdkError(f"{torch_filename} has no libtorch_python.so or libc10.so", next_step=_NEXT_STEP)
    sdk_files = {path: content for path, content in members.items() if path.startswith("torch/")}
    sdk_files |= _modules(members, libraries, release)  # in place of torch's own version.py
    sdk_files |= _stubs(libraries, machine)
    sdk_files |= _dist_info(members, release, _tags(torch_filename, machine))
    return sdk_files


def _stubs(libraries: Mapping[str, LibraryExports], machine: Machine) -> dict[str, bytes]:
    """A link stub of each library, by path.

    Each is read back before it counts. Raises SdkError for a stub that is not as torch's own library.
    """
    stubs = {}
    for name, library in libraries.items():
        # Torch also needs CUDA's libraries, which are not there while a build links.
        needed = tuple(other for other in library.needed if other in libraries)
        expected = Stub(name, needed, library.names, REFUSAL, machine=machine)
        content = stub.assemble(expected)
        # A build would link against a wrong stub without a word, and fail where it is imported.
        problem = stub.problem(content, expected)
        if problem:
            raise SdkError(f"the stub of {name} is wrong: {problem}", next_step=_NEXT_STEP)
        stubs[f"torch/lib/{name}"] = content
    return stubs


def _modules(members: Mapping[str, bytes], libraries: Mapping[str, LibraryExports], release: str) -> dict[str, bytes]:
    """The Python modules that refuse to run, and the one that has the version. Raises SdkError for another version."""
    folder = files("torch_build_farm").joinpath("data/sdk")
    has_cxx11_abi = any("__cxx11" in name for name in libraries["libc10.so"].names)  # libstdc++'s ABI of 2015
    torch_module = folder.joinpath("torch.py.in").read_text("utf-8")
    torch_module = torch_module.replace("@RELEASE@", release).replace("@CXX11_ABI@", str(has_cxx11_abi))
    return {
        "torch/__init__.py": torch_module.encode(),
        "torch/utils/__init__.py": folder.joinpath("utils.py.in").read_bytes(),
        "torch/version.py": _version_module(members["torch/version.py"], release),
    }


def _version_module(content: bytes, release: str) -> bytes:
    """torch/version.py with the SDK's version. Raises SdkError if it is not of that release."""
    text, count = _VERSION.subn(rf"\g<1>\g<2>+{LOCAL}'", content.decode())
    if count != 1 or f"'{version_of(release)}'" not in text:
        raise SdkError(f"torch/version.py of torch {release} does not name {release}", next_step=_NEXT_STEP)
    return text.encode()


def _dist_info(members: Mapping[str, bytes], release: str, tags: str) -> dict[str, bytes]:
    """METADATA, WHEEL and torch's licenses, by path. `tags` are those in the wheel's file name."""
    folder = f"torch-{version_of(release)}.dist-info"
    (torch_metadata,) = [path for path in members if path.endswith(".dist-info/METADATA")]
    metadata = [
        "Metadata-Version: 2.1",
        "Name: torch",
        f"Version: {version_of(release)}",
        f"Summary: Headers, CMake files and link stubs of torch {release}; nothing in it runs",
    ]
    requires_python = re.search(r"^Requires-Python: .*$", members[torch_metadata].decode(), re.MULTILINE)
    if requires_python:
        metadata.append(requires_python[0])
    wheel = ["Wheel-Version: 1.0", "Generator: torch-build-farm", "Root-Is-Purelib: false", f"Tag: {tags}"]
    sdk_files = {f"{folder}/METADATA": _lines(metadata), f"{folder}/WHEEL": _lines(wheel)}
    for path, content in members.items():
        _, is_in_dist_info, name = path.partition(".dist-info/")
        if is_in_dist_info and path != torch_metadata:
            sdk_files[f"{folder}/{name}"] = content
    return sdk_files


def _lines(lines: Iterable[str]) -> bytes:
    """A text file of these lines."""
    return "".join(f"{line}\n" for line in lines).encode()


def write(path: Path, contents: Mapping[str, bytes]) -> None:
    """Write the wheel with its RECORD (PEP 427). The same contents give the same bytes."""
    (dist_info,) = {member.partition("/")[0] for member in contents if member.endswith(".dist-info/WHEEL")}
    members = [(_entry(member), contents[member]) for member in sorted(contents)]
    write_wheel(path, [*members, (_entry(f"{dist_info}/RECORD"), b"")])


def _entry(member: str) -> zipfile.ZipInfo:
    """A member's entry in the archive, with the same date and mode for all."""
    entry = zipfile.ZipInfo(member, _DATE)
    entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o100644 << 16
    return entry
