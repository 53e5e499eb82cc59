"""A real torch in 130 MB: the release's own Python, libtorch_cpu, libtorch_python and libc10, without the code for GPUs.

On the package index torch for x86-64 Linux is a CUDA build. Measured for 2.8.0: its wheel is 888 MB and unpacks to 1.6 GB,
of which libtorch_cuda.so and libtorch_cuda_linalg.so take 723 MB and 1.1 GB; importing it takes NVIDIA's libraries
besides, gigabytes more. A CPU never runs any of that. What is read here of that very wheel, by range requests, is the
rest, without headers: 128 MB in 8 requests, 490 MB unpacked. Each library that is left out, torch's or NVIDIA's, is
replaced by one that exports the names the others ask it for: functions in C answer "no such device" (100 in both of
NVIDIA's enumerations), those in C++ refer to zeros, as an initialiser of libtorch_python wants them.

So the code is real wherever a CPU goes: the loader links extensions against torch's own exports, and the dispatcher,
autograd and the kernels are those that users run. Nothing tests what a GPU does, nor what NVIDIA's wheels require;
the tests that take the whole wheel do (--run-torch).
"""

from __future__ import annotations

import re
import subprocess
import zipfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.made_up import Front
from torch_build_farm.core.package_index import PackageIndex
from torch_build_farm.core.remote_wheel import RemoteWheel
from torch_build_farm.core.versions import CPython
from torch_build_farm.core.wheel_archive import write_wheel
from torch_build_farm.wheels.elf import library as elf

RELEASE = "2.8.0"
_CUDA = ("torch/lib/libtorch_cuda.so", "torch/lib/libtorch_cuda_linalg.so", "torch/lib/libcaffe2_nvrtc.so")
_FOR_BUILDS = ("torch/include/", "torch/share/", "torch/bin/protoc")
_SYSTEM = ("libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0", "librt.so.1", "libgcc_s.so.1", "libstdc++.so.6",
           "ld-linux-x86-64.so.2")  # fmt: skip
_LARGE = 64 << 20  # bytes; larger members are read piece by piece

_TYPE_INFO = """
extern char _ZTVN10__cxxabiv117__class_type_infoE[];
void *{name}[8] = {{_ZTVN10__cxxabiv117__class_type_infoE + 16, "{type}"}};
"""


def _read(wheel: RemoteWheel) -> dict[str, bytes]:
    """Contents of the members that a CPU needs, by path."""
    wanted = [path for path in wheel.members if path not in _CUDA and not path.startswith(_FOR_BUILDS)]
    large = [path for path in wanted if wheel.member(path).file_size > _LARGE]
    contents = wheel.read_many(set(wanted) - set(large))
    return contents | {path: b"".join(wheel.chunks(path)) for path in large}


def _system_names() -> set[str]:
    names: set[str] = set()
    for library in _SYSTEM[:-1]:
        place = subprocess.run(["cc", f"-print-file-name={library}"], capture_output=True, text=True, check=True).stdout
        names |= elf.read(Path(place.strip()).read_bytes()).exported
    return names


def _definition(name: str) -> str:
    """C that defines a name of C or C++."""
    if name.startswith("_ZTI"):  # a type's description, which is registered by its name
        return _TYPE_INFO.format(name=name, type=name.removeprefix("_ZTI"))
    if name.startswith(("_ZTV", "_ZTT", "_ZTS")):
        return f"char {name}[4096];"
    if name.startswith("_Z"):
        return f"void *{name}(void) {{ return zeros; }}"
    return f"int {name}(void) {{ return 100; }}"


def _stub(path: Path, names: Mapping[str, str]) -> bytes:
    """A library that defines the names, each in its version of the ABI (GNU symbol versioning)."""
    options = [f"-Wl,-soname,{path.name}"]
    if versions := {version for version in names.values() if version}:
        script = path.with_suffix(".map")
        script.write_text("".join(f"{version} {{ global: *; }};\n" for version in versions))
        options.append(f"-Wl,--version-script={script}")
    source = "\n".join(["static char zeros[65536];", *map(_definition, sorted(names))])
    command = ["cc", "-w", "-fno-builtin", "-shared", "-x", "c", "-", "-o", str(path), "-lstdc++", *options]
    subprocess.run(command, input=source, text=True, check=True)
    return path.read_bytes()


def _stubs(contents: Mapping[str, bytes], scratch: Path) -> dict[str, bytes]:
    """The libraries that `contents` need and have not, by path."""
    libraries = [elf.read(content) for path, content in contents.items() if re.search(r"\.so(\.\d+)*$", path)]
    defined = _system_names().union(*(library.exported for library in libraries))
    names: dict[str, dict[str, str]] = defaultdict(dict)
    for library in libraries:
        for undefined in library.undefined:
            python = undefined.name.startswith(("Py", "_Py"))
            if not (python or undefined.weak or undefined.name in defined):
                names[undefined.file or "libtorch_cuda.so"][undefined.name] = undefined.version
    present = {Path(path).name for path in contents}
    lacking = {needed for library in libraries for needed in library.needed} - present - set(_SYSTEM)
    scratch.mkdir()
    return {f"torch/lib/{name}": _stub(scratch / name, names[name]) for name in sorted(lacking)}


def write(folder: Path) -> Path:
    """The wheel, named as torch's own. Raises PackageIndexError where that cannot be read in parts."""
    index, tag = PackageIndex.configured(), CPython.running().tag
    (file,) = (
        file
        for file in index.files("torch")
        if file.filename.startswith(f"torch-{RELEASE}-{tag}-{tag}-manylinux") and "x86_64" in file.filename
    )
    with index.open_wheel(file) as wheel:
        contents = _read(wheel)
    metadata = f"torch-{RELEASE}.dist-info/METADATA"
    requirements = re.compile(rb"^Requires-Dist: (nvidia|triton).*\n", re.MULTILINE)
    contents[metadata] = requirements.sub(b"", contents[metadata])
    contents |= _stubs(contents, folder / "stubs")
    path = folder / file.filename
    write_wheel(path, [(zipfile.ZipInfo(member), content) for member, content in contents.items()])
    return path


@contextmanager
def index(wheel: Path) -> Iterator[Front]:
    """The real package index, on loopback, on which this is the only torch."""
    front = Front({wheel.name: wheel}, hidden="torch-")
    try:
        yield front
    finally:
        front.close()
