"""torch's SDK: stubs that link as the real libraries do, a torch that refuses, a store that notices what changed."""

from __future__ import annotations

import hashlib
import io
import os
import random
import shutil
import subprocess
import sys
import time
import tracemalloc
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from tests import small_torch
from tests.conftest import need
from tests.made_up import Front
from torch_build_farm.core.errors import PackageIndexError, SdkError, UnknownTorchError
from torch_build_farm.core.http_ranges import Limits
from torch_build_farm.core.machine import ARM64
from torch_build_farm.core.package_index import PackageIndex
from torch_build_farm.core.store import TorchStore
from torch_build_farm.core.versions import CPython
from torch_build_farm.project.settings import Settings
from torch_build_farm.releases import sdk as torch_sdk
from torch_build_farm.releases import symbol_types
from torch_build_farm.releases.sdk import cache, exported_names, fallback, wheel
from torch_build_farm.releases.symbol_table import ReleaseFiles, StoredTable, SymbolTable, Unit
from torch_build_farm.releases.symbol_types import SymbolKinds
from torch_build_farm.wheels.elf import library, stub, symbol
from torch_build_farm.wheels.elf.partial import Parts, exported
from torch_build_farm.wheels.elf.stub import Stub
from torch_build_farm.wheels.elf.symbol import Kind

REFUSAL = "it runs nothing"
RELEASE, TAG = "2.99.0", "cp311"
FILE = small_torch.filename(RELEASE, TAG)
MEMBERS = small_torch.members(RELEASE)

SOURCE = """
#include <string>
struct __attribute__((visibility("default"))) Base { virtual ~Base(); virtual int value(); int member = 3; };
Base::~Base() {}
int Base::value() { return member; }
int plain(const std::string& text) { return text.size(); }
extern "C" int plain_c(int x) { return x + 1; }
int data[7] = {1};
extern const char text[] = "text";
thread_local int per_thread = 4;
inline int& unique() { static int counter; return counter; }
int use() { return ++unique(); }
__attribute__((weak)) int weak() { return 2; }
"""
USER = """
#include <string>
struct Base { virtual ~Base(); virtual int value(); int member; };
struct Derived : Base { int value() override; };
int plain(const std::string&);
extern "C" int plain_c(int);
extern int data[7];
extern const char text[];
extern thread_local int per_thread;
int weak();
int Derived::value() { return Base::value() + plain(text) + plain_c(data[2]) + per_thread + weak(); }
extern "C" int entry() { Derived made; return made.value(); }
"""


def read(content: bytes) -> tuple[dict[str, Kind], str]:
    parts = Parts(len(content))
    parts.add(0, content)
    found = exported(parts)
    return symbol.kinds_by_name(found.symbols), found.soname


def made(names: Mapping[str, Kind]) -> Stub:
    return Stub("libmade.so", ("libother.so",), names, REFUSAL)


def some(count: int, seed: int = 1) -> dict[str, Kind]:
    rng = random.Random(seed)
    rows = [Kind(2, 1, 0), Kind(2, 2, 0), Kind(1, 1, 40), Kind(1, 2, 8), Kind(1, 10, 4), Kind(6, 1, 8), Kind(0, 1, 0)]
    return {f"_Z{rng.randrange(10**9)}name{number}": rng.choice(rows) for number in range(count)}


def compiled(folder: Path, *words: str | Path) -> str:
    done = subprocess.run(["c++", *words], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need(shutil.which("c++") is not None, "needs a C++ compiler (c++)")
    folder = tmp_path_factory.mktemp("real")
    (folder / "made.cpp").write_text(SOURCE)
    (folder / "user.cpp").write_text(USER)
    compiled(folder, "made.cpp", "-fPIC", "-shared", "-Wl,-soname,libmade.so", "-o", "libmade.so")
    return folder


class TestStub:
    @pytest.mark.parametrize("count", [0, 1, 2, 63, 64, 5000])
    def test_what_goes_in_comes_out(self, count: int) -> None:
        wanted = made(some(count))
        content = stub.assemble(wanted)
        assert stub.problem(content, wanted) == ""
        assert content == stub.assemble(replace(wanted, names=dict(reversed(list(wanted.names.items())))))

    def test_one_for_arm64_says_so(self) -> None:
        """A linker takes no library for another machine; all else of the file is the same."""
        wanted = made(some(64))
        content = stub.assemble(replace(wanted, machine=ARM64))
        assert library.read(content, ARM64).exported == library.read(stub.assemble(wanted)).exported
        with pytest.raises(library.OtherMachineError):
            library.read(content)
        of_x86_64 = stub.assemble(wanted)
        assert [place for place in range(len(content)) if content[place] != of_x86_64[place]] == [18]  # e_machine

    def test_one_that_lacks_a_symbol_is_caught(self) -> None:
        wanted = made(some(500))
        for change in (
            {name: kind for number, (name, kind) in enumerate(wanted.names.items()) if number != 77},
            {**wanted.names, "_Z3new": Kind(2, 1, 0)},
            {**wanted.names, next(iter(wanted.names)): Kind(1, 1, 9)},
        ):
            assert "names are not as torch has them" in stub.problem(
                stub.assemble(replace(wanted, names=change)), wanted
            )
        assert "needs" in stub.problem(stub.assemble(replace(wanted, needed=())), wanted)

    def test_a_flipped_bit_is_caught_wherever_it_matters(self) -> None:
        """In the strings, and in what a linker takes of a symbol: its name, type, binding, and a variable's size."""
        wanted = made(some(40))
        content = stub.assemble(wanted)
        elf = ELFFile(io.BytesIO(content))
        names, table = (elf.get_section_by_name(name) for name in (".dynstr", ".dynsym"))
        assert names
        assert isinstance(table, SymbolTableSection)
        places = list(range(names["sh_offset"] + 1, names["sh_offset"] + names["sh_size"]))
        for number, row in list(enumerate(table.iter_symbols()))[1:]:
            start = table["sh_offset"] + number * table["sh_entsize"]
            places += range(start, start + 5)  # st_name, st_info
            if row["st_info"]["type"] not in ("STT_FUNC", "STT_LOOS"):
                places += range(start + 16, start + 24)  # st_size
        rng = random.Random(3)
        for place in rng.sample(places, 400):
            damaged = bytearray(content)
            damaged[place] ^= 1 << rng.randrange(8)
            assert stub.problem(bytes(damaged), wanted), f"byte {place}"

    def test_no_stub_that_is_wrong_goes_into_a_wheel(self, monkeypatch: pytest.MonkeyPatch) -> None:
        real = stub.assemble

        def forgetful(wanted: Stub) -> bytes:
            return real(replace(wanted, names=dict(list(wanted.names.items())[1:])))

        monkeypatch.setattr(stub, "assemble", forgetful)
        with pytest.raises(SdkError, match=r"the stub of libc10\.so is wrong: 1 names"):
            wheel.contents(MEMBERS, small_torch.LIBRARIES, FILE)

    @pytest.mark.parametrize("options", [("-fPIC", "-shared"), ("-fPIC", "-shared", "-Wl,--as-needed,--no-undefined")])
    def test_what_is_linked_is_the_same(self, real: Path, tmp_path: Path, options: tuple[str, ...]) -> None:
        found, soname = read((real / "libmade.so").read_bytes())
        (tmp_path / "libmade.so").write_bytes(stub.assemble(Stub(soname, (), found, REFUSAL)))
        linked = []
        for folder in (real, tmp_path):
            said = compiled(real, *options, "user.cpp", f"-L{folder}", "-lmade", "-o", tmp_path / "user.so")
            linked.append(((tmp_path / "user.so").read_bytes(), said))
        assert linked[0] == linked[1]

    def test_an_undefined_name_is_refused_at_the_link(self, real: Path, tmp_path: Path) -> None:
        found, soname = read((real / "libmade.so").read_bytes())
        del found["plain_c"]
        (tmp_path / "libmade.so").write_bytes(stub.assemble(Stub(soname, (), found, REFUSAL)))
        words = [
            "c++",
            "-fPIC",
            "-shared",
            "-Wl,--no-undefined",
            "user.cpp",
            f"-L{tmp_path}",
            "-lmade",
            "-o",
            "/dev/null",
        ]
        done = subprocess.run(words, cwd=real, capture_output=True, text=True, check=False)
        assert done.returncode != 0
        assert "plain_c" in done.stderr

    def test_no_loader_takes_it(self, tmp_path: Path) -> None:
        path = tmp_path / "libmade.so"
        path.write_bytes(stub.assemble(made(some(9))))
        code = f"import ctypes; ctypes.CDLL({str(path)!r})"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert f"{REFUSAL}: cannot open shared object file" in done.stderr


class TestKinds:
    def table(self) -> tuple[SymbolTable, dict[Unit, dict[str, Kind]]]:
        units = [Unit(release, name, "", ()) for release in ("1.0", "1.1") for name in ("liba.so", "libb.so")]
        found = {unit: some(300, number // 2) for number, unit in enumerate(units)}
        found[units[0]]["_ZTS3abc"] = found[units[2]]["_ZTS3abc"] = Kind(1, 2, 5)
        found[units[1]]["changes"], found[units[3]]["changes"] = Kind(1, 1, 8), Kind(1, 1, 16)
        exported: dict[Unit, list[str]] = {unit: list(names) for unit, names in found.items()}
        exported[Unit("", "libc.so.6", "", ())] = ["printf", "changes"]
        releases = [ReleaseFiles(name, {"cp311": f"torch-{name}.whl"}) for name in ("1.0", "1.1")]
        return SymbolTable.of(releases, exported), found

    def test_round_trip(self) -> None:
        table, found = self.table()
        wheels = {"1.1": {"cp312": "b", "cp311": "a"}, "1.0": {}}
        content, of_file = symbol_types.to_bytes(table, found, wheels), table.to_bytes()
        assert content == symbol_types.to_bytes(table, dict(reversed(found.items())), dict(reversed(wheels.items())))
        names = StoredTable.from_bytes(of_file)
        back = SymbolKinds.from_bytes(content, of_file)
        assert back.of_units(names, found) == found
        unit = next(iter(found))
        assert back.of_units(names, [unit]) == {unit: found[unit]}
        assert back.wheels == wheels

    def test_those_of_other_names_are_refused(self) -> None:
        table, found = self.table()
        other = SymbolTable.of(table.releases, {unit: [*names, "more"] for unit, names in found.items()})
        with pytest.raises(ValueError, match="not those of these names"):
            SymbolKinds.from_bytes(symbol_types.to_bytes(table, found, {}), other.to_bytes())


@pytest.fixture
def front(tmp_path: Path) -> Iterator[Front]:
    served = Front({FILE: small_torch.write(tmp_path, RELEASE, TAG)}, real="(?!)")
    yield served
    served.close()


@pytest.fixture
def store(tmp_path: Path) -> TorchStore:
    return TorchStore.at(tmp_path / "store", tmp_path / "work")


PYTHON = CPython.parse("3.11")


def get(store: TorchStore, front: Front, python: CPython = PYTHON) -> cache.Sdk:
    index = PackageIndex(front.url, limits=Limits(pauses=(0.0,)))
    return cache.get(store, RELEASE, python, index, lambda _: None)


class TestShelf:
    def test_another_machines_lies_beside_it(self, store: TorchStore, tmp_path: Path) -> None:
        of_arm64 = FILE.replace("x86_64", "aarch64")
        wheel_path = small_torch.write(tmp_path, RELEASE, TAG)
        served = Front({FILE: wheel_path, of_arm64: wheel_path}, real="(?!)")
        try:
            index = PackageIndex(served.url, limits=Limits(pauses=(0.0,)))
            sdk = get(store, served)
            other = cache.get(store, RELEASE, PYTHON, index, lambda _: None, machine=ARM64)
            assert other.made_of == of_arm64
            assert other.wheel.name == f"torch-{RELEASE}+sdk-{TAG}-none-any.whl"  # a cross compiler's runs anywhere
            assert (get(store, served), cache.find(store, RELEASE, PYTHON, index, machine=ARM64)) == (sdk, other)
            with zipfile.ZipFile(other.wheel) as archive:
                library.read(archive.read("torch/lib/libc10.so"), ARM64)
        finally:
            served.close()

    def test_made_once(self, store: TorchStore, front: Front) -> None:
        sdk = get(store, front)
        asked = len(front.requests)
        assert get(store, front) == sdk
        assert len(front.requests) == asked, "the index is not asked again"
        other = PackageIndex(front.url.replace("127.0.0.1", "localhost"))
        assert cache.find(store, RELEASE, PYTHON, other) is None, "another index may have another torch of that name"
        assert sdk.wheel.name == f"torch-{RELEASE}+sdk-{TAG}-{TAG}-manylinux_2_28_x86_64.whl"
        assert sdk.made_of_sha256 == hashlib.sha256((front.files[FILE]).read_bytes()).hexdigest()
        with zipfile.ZipFile(sdk.wheel) as archive:
            files = {name: archive.read(name) for name in archive.namelist()}
        assert b"RuntimeError" in files["torch/__init__.py"]
        assert files["torch/include/ATen/ATen.h"] == MEMBERS["torch/include/ATen/ATen.h"]
        info = f"torch-{RELEASE}+sdk.dist-info"
        assert files[f"{info}/licenses/LICENSE"] == b"a licence\n"
        assert b"Requires-Dist" not in files[f"{info}/METADATA"]
        assert b"\nRequires-Python: >=3.10\n" in files[f"{info}/METADATA"]
        own = {name: content for name, content in files.items() if name != f"{info}/RECORD"}
        assert files[f"{info}/RECORD"] == small_torch.record(dict(sorted(own.items()))) + f"{info}/RECORD,,\n".encode()
        for name, one in small_torch.LIBRARIES.items():
            found, soname = read(files[f"torch/lib/{name}"])
            assert (sorted(found), soname) == (sorted(one.names), name)
        assert not list(store.root.glob("sdk/.*")), "nothing half-made is left"

    def test_a_damaged_one_is_made_again(self, store: TorchStore, front: Front) -> None:
        sdk = get(store, front)
        note = store.root / "sdk" / f"{RELEASE}-{TAG}.json"
        for damage in (
            lambda: sdk.wheel.write_bytes(sdk.wheel.read_bytes()[:-9]),
            lambda: sdk.wheel.write_bytes(bytes(99)),
            sdk.wheel.unlink,
            (sdk.folder / torch_sdk.CONSTRAINTS).unlink,
            lambda: note.write_text("{"),
            lambda: note.write_text("[" * 100_000),
            lambda: note.write_text('{"schema": 0}'),
        ):
            damage()
            assert cache.find(store, RELEASE, PYTHON, PackageIndex(front.url)) is None
            assert get(store, front) == sdk
            assert hashlib.sha256(sdk.wheel.read_bytes()).hexdigest() == sdk.sha256

    def test_a_member_that_is_not_what_record_says(self, store: TorchStore, front: Front, tmp_path: Path) -> None:
        for member in ("torch/include/ATen/ATen.h", "torch/version.py"):
            small_torch.write(tmp_path, RELEASE, TAG, changed=member)
            with pytest.raises(PackageIndexError, match=f"{member} is not what its RECORD lists"):
                get(store, front)
            assert cache.find(store, RELEASE, PYTHON, PackageIndex(front.url)) is None

    def test_no_wheel_for_that_python(self, store: TorchStore, front: Front) -> None:
        with pytest.raises(UnknownTorchError, match=r"no wheel for CPython 3\.12"):
            get(store, front, CPython.parse("3.12"))

    def test_an_index_without_ranges(self, store: TorchStore, front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(front, "ranges", False)
        with pytest.raises(PackageIndexError, match="does not answer range requests"):
            get(store, front)

    def test_the_network_is_cut(self, store: TorchStore, front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(front, "cut_after", 2)  # the list, the wheel's end
        with pytest.raises(PackageIndexError, match="cannot be read in parts"):
            get(store, front)
        monkeypatch.setattr(front, "cut_after", None)
        assert get(store, front).wheel.is_file()
        assert not list(store.root.glob("sdk/.*"))

    def test_the_wheel_changes_meanwhile(
        self, store: TorchStore, front: Front, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(front, "tag_of", lambda: f'"{len(front.requests) > 2}"')
        with pytest.raises(PackageIndexError, match="changed meanwhile"):
            get(store, front)

    def test_an_index_s_own_build_has_its_own_names(self, store: TorchStore, front: Front) -> None:
        """The index of symbols knows torch's wheel by its SHA-256, not by a name that anybody may use."""
        assert exported_names.from_tables("2.9.0", TAG, "0" * 64) == {}
        assert exported_names.from_tables("2.9.0", TAG, "") == {}


class TestContents:
    @pytest.mark.parametrize("gone", small_torch.LIBRARIES)
    def test_a_wheel_without_a_library_that_extensions_link(self, gone: str) -> None:
        """Nothing of an extension would be compared with it: the link would fail, or would be one without torch."""
        libraries = {name: library for name, library in small_torch.LIBRARIES.items() if name != gone}
        with pytest.raises(SdkError, match=rf"{FILE} has no libtorch_python\.so or libc10\.so"):
            wheel.contents(MEMBERS, libraries, FILE)

    @pytest.mark.parametrize(
        "text",
        [
            "__version__ = '2.98.0+cu999'\n",
            "__version__ = '2.99.0'\n__version__ = '2.99.0'\n",
            "version = '2.99.0+sdk'\n",
            "__version__ = read()\n",
        ],
    )
    def test_a_version_module_that_does_not_name_the_release(self, text: str) -> None:
        members = {**MEMBERS, "torch/version.py": text.encode()}
        with pytest.raises(SdkError, match=rf"does not name {RELEASE}"):
            wheel.contents(members, small_torch.LIBRARIES, FILE)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sdk")
    path = folder / wheel.filename_of(FILE)
    wheel.write(path, wheel.contents(MEMBERS, small_torch.LIBRARIES, FILE))
    with zipfile.ZipFile(path) as archive:
        archive.extractall(folder / "there")
    return folder / "there"


def run(installed: Path, code: str, note: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {"PYTHONPATH": str(installed), **({"TORCH_BUILD_FARM_ASKED": str(note)} if note else {})}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


class TestTorch:
    def test_what_builds_ask(self, installed: Path) -> None:
        code = """
import importlib.metadata, importlib.util, os, torch
assert importlib.util.find_spec("torch").submodule_search_locations[0] == os.path.dirname(torch.__file__)
print(torch.__version__, torch.version.cuda, torch.compiled_with_cxx11_abi(), torch._C._GLIBCXX_USE_CXX11_ABI)
print(importlib.metadata.version("torch"), importlib.metadata.requires("torch"))
print(os.path.relpath(torch.utils.cmake_prefix_path, os.path.dirname(torch.__file__)))
"""
        assert run(installed, code).stdout.splitlines() == [
            "2.99.0+sdk 99.9 True True", "2.99.0+sdk None", "share/cmake",
        ]  # fmt: skip

    @pytest.mark.parametrize(
        ("code", "asked"),
        [
            ("import torch; torch.cuda.is_available()", "torch.cuda"),
            ("import torch.nn", "torch.nn"),
            ("from torch import nn", "torch.nn"),
            ("from torch.utils import cpp_extension", "torch.utils.cpp_extension"),
            ("import torch; torch._C._nothing", "torch._C._nothing"),
            ("import torch; hasattr(torch, 'tensor')", "torch.tensor"),
            ("import torch; hasattr(torch, '__config__')", "torch.__config__"),
        ],
    )
    def test_what_it_refuses(self, installed: Path, tmp_path: Path, code: str, asked: str) -> None:
        done = run(installed, code, tmp_path / "asked")
        assert done.stderr.splitlines()[-1].startswith(f"RuntimeError: {asked} is not in torch's SDK")
        assert fallback.names_refused(tmp_path / "asked", "") == asked

    def test_who_catches_everything_is_noticed_too(self, installed: Path, tmp_path: Path) -> None:
        code = "try:\n    import torch\n    torch.zeros(3)\nexcept Exception:\n    print('without')"
        assert run(installed, code, tmp_path / "asked").stdout == "without\n"
        assert fallback.names_refused(tmp_path / "asked", "") == "torch.zeros"

    def test_a_note_that_cannot_be_left_ends_the_process(self, installed: Path, tmp_path: Path) -> None:
        code = "try:\n    import torch\n    torch.zeros(3)\nexcept Exception:\n    print('without')"
        done = run(installed, code, tmp_path / "gone" / "asked")
        assert (done.returncode, done.stdout) == (1, "")
        assert fallback.names_refused(tmp_path / "none", done.stderr) == "torch.zeros", "and the log tells"

    def test_inspection_asks_for_nothing(self, installed: Path, tmp_path: Path) -> None:
        code = "import inspect, pydoc, torch; inspect.unwrap(torch); inspect.getdoc(torch); copy = dir(torch)"
        assert run(installed, code, tmp_path / "asked").returncode == 0
        assert fallback.names_refused(tmp_path / "asked", "") == ""

    def test_libraries_that_were_loaded_are_told_by_the_log(self, tmp_path: Path) -> None:
        said = f"ImportError: {torch_sdk.REFUSAL}: cannot open shared object file: No such file or directory"
        assert fallback.names_refused(tmp_path / "none", said) == "torch's libraries"
        linked = f"ld: warning: {torch_sdk.REFUSAL}, needed by libtorch.so, not found (try using -rpath or -rpath-link)"
        assert fallback.names_refused(tmp_path / "none", linked) == "", (
            "an executable was linked, and nothing was loaded"
        )


@pytest.mark.parametrize(
    ("setting", "text", "why"),
    [
        ("auto", "from torch.utils.cpp_extension import CUDAExtension\n", "setup.py uses torch.utils.cpp_extension"),
        ("auto", "    from torch.utils import cpp_extension as ext\n", "setup.py uses"),
        ("auto", "import torch.utils.cpp_extension\n", "setup.py uses"),
        ("auto", "from torch.utils import (\n    cpp_extension,\n)\n", "setup.py uses"),
        ("auto", "import torch; print(torch.utils.cmake_prefix_path)  # no cpp_extension\n", ""),
        ("auto", "# from torch.utils.cpp_extension import x\n", ""),
        ("sdk", "from torch.utils.cpp_extension import CUDAExtension\n", ""),
        ("full", "", 'torch-build = "full"'),
    ],
)
def test_what_takes_all_of_torch_from_the_start(tmp_path: Path, setting: str, text: str, why: str) -> None:
    (tmp_path / "setup.py").write_text(text)
    settings = replace(Settings(name="x", packages=("x",)), torch_build=setting)  # type: ignore[arg-type]
    found = fallback.reason_for_full_torch(settings, tmp_path)
    assert found.startswith(why)
    assert bool(found) == bool(why)


@pytest.mark.parametrize(
    ("line", "runs_torch"),
    [
        ("run_command(py, '-c', 'from torch.utils import cpp_extension; print(1)', check: true)", True),
        ("code = 'import os, torch.utils.cpp_extension as e'", True),
        ("code = 'import torch; print(torch.utils.cmake_prefix_path)'", False),
        ("cpp_extension = 'torch.utils'", False),
    ],
)
def test_what_meson_runs_of_torch(tmp_path: Path, line: str, runs_torch: bool) -> None:
    (tmp_path / "meson.build").write_text(f"project('demo', 'cpp')\n{line}\n")
    expected = "meson.build uses torch.utils.cpp_extension, which runs torch" if runs_torch else ""
    assert fallback.reason_for_full_torch(Settings(name="x", packages=("x",)), tmp_path) == expected


LONG_SCRIPTS = {
    "blank lines": "\n" * 400_000,
    "imports without an end": "from torch.utils import (\n" * 16_000,
    "one line": "from torch.utils import " + "x, " * 100_000,
}


@pytest.mark.parametrize("text", LONG_SCRIPTS.values(), ids=LONG_SCRIPTS)
def test_a_long_build_script_is_searched_in_no_time(tmp_path: Path, text: str) -> None:
    """An expression that begins with every line and goes on over all of them took half an hour."""
    (tmp_path / "setup.py").write_text(text)
    settings = Settings(name="x", packages=("x",))
    begin = time.process_time()
    assert fallback.reason_for_full_torch(settings, tmp_path) == ""
    assert time.process_time() - begin < 5


@pytest.mark.parametrize("kind", ["fifo", "folder", "large"])
def test_a_build_script_that_is_not_read(tmp_path: Path, kind: str) -> None:
    script = tmp_path / "setup.py"
    if kind == "fifo":
        os.mkfifo(script)
    elif kind == "folder":
        script.mkdir()
    else:
        with script.open("wb") as file:
            file.write(b"import torch.utils.cpp_extension\n")
            file.truncate(10_000_000)
    assert fallback.reason_for_full_torch(Settings(name="x", packages=("x",)), tmp_path) == ""


def test_modules_that_come_with_torch_are_missed() -> None:
    assert fallback.missing_module("ModuleNotFoundError: No module named 'typing_extensions'\n") == "typing_extensions"
    assert fallback.missing_module("ModuleNotFoundError: No module named 'sympy.core'\n") == "sympy"
    assert fallback.missing_module("ModuleNotFoundError: No module named 'sympy2'\n") == ""
    assert fallback.missing_module("ModuleNotFoundError: No module named 'pybind11'\n") == "", "torch does not bring it"


def test_the_version_of_the_sdk_in_a_wheel(tmp_path: Path) -> None:
    path = tmp_path / "x-1-py3-none-any.whl"
    for text, member in (("built with 2.9.0", ""), ("built with 2.9.0+sdk", "x/__init__.py"), ("2.8.0+sdk", "")):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("x/a.py", "")
            archive.writestr("x/__init__.py", text)
        assert fallback.member_with_sdk_version(path, "2.9.0") == member


def test_the_version_of_the_sdk_across_two_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A member is read a piece at a time, and the version may lie wherever one ends."""
    path = tmp_path / "x-1-py3-none-any.whl"
    monkeypatch.setattr(fallback, "_PIECE", 16)
    for before in range(40):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("x/__init__.py", "." * before + "2.9.0+sdk" + "." * 20)
        assert fallback.member_with_sdk_version(path, "2.9.0") == "x/__init__.py", before


def test_a_large_member_is_read_in_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "x-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("x/data.bin", "w") as member:
        for _ in range(30):
            member.write(bytes(1 << 20))
    tracemalloc.start()
    try:
        assert fallback.member_with_sdk_version(path, "2.9.0") == ""
        assert tracemalloc.get_traced_memory()[1] < 10 << 20
    finally:
        tracemalloc.stop()
