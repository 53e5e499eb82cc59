"""Relocation: paths, run paths, RECORD, METADATA, entry points."""

import importlib.util
import random
import subprocess
import sys
import tracemalloc
import zipfile
from dataclasses import replace
from pathlib import Path

import lief
import pytest

from tests import elves
from tests.family import family, project, variant
from tests.pipeline.test_repair import Make, library  # noqa: F401 (a fixture)
from torch_build_farm.core import tools
from torch_build_farm.core.errors import RelocationError
from torch_build_farm.wheels import one_name, relocate
from torch_build_farm.wheels.relocate import Move
from torch_build_farm.wheels.wheel import read_wheel, record_problems

MOVE = Move(("demo", "ns.sub", "demo.inner"), "torch29")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("demo/__init__.py", "demo/_torch29/__init__.py"),
        ("demo/a/b.so", "demo/_torch29/a/b.so"),
        ("demo/inner/c.py", "demo/_torch29/inner/c.py"),
        ("ns/sub/d.py", "ns/sub/_torch29/d.py"),
        ("demo.cpython-311-x86_64-linux-gnu.so", "demo/_torch29/__init__.cpython-311-x86_64-linux-gnu.so"),
        ("demo.pyi", "demo/_torch29/__init__.pyi"),
        ("demo.abi3.so", "demo/_torch29/__init__.abi3.so"),
        ("demo.pth", None),
        ("ns/other.py", None),
        ("demolition/x.py", None),
    ],
)
def test_where_files_go(old: str, new: str | None) -> None:
    assert MOVE.member(old) == new


@pytest.mark.parametrize(
    ("entry", "of", "new"),
    [
        ("$ORIGIN", "demo/_core.so", "$ORIGIN"),
        ("$ORIGIN/lib", "demo/_core.so", "$ORIGIN/lib"),
        ("$ORIGIN/../demo_torch29.libs", "demo/_core.so", "$ORIGIN/../../demo_torch29.libs"),
        ("${ORIGIN}/../../torch/lib/", "demo/a/_core.so", "$ORIGIN/../../../torch/lib"),
        ("$ORIGIN/../ns/sub/lib", "demo/_core.so", "$ORIGIN/../../ns/sub/_torch29/lib"),
        ("$ORIGIN/../demo/lib", "demo/_core.so", "$ORIGIN/lib"),
        ("$ORIGIN/demo.libs", "demo.so", "$ORIGIN/../../demo.libs"),
        ("$ORIGIN/../../../..", "demo/_core.so", "$ORIGIN/../../../../.."),
        ("$ORIGIN/../demo/lib", "demo.libs/libx.so", "$ORIGIN/../demo/_torch29/lib"),
    ],
)
def test_run_paths_lead_where_they_led(entry: str, of: str, new: str) -> None:
    assert MOVE.run_path(entry, of) == new


def test_a_wheel(tmp_path: Path, library: Make) -> None:  # noqa: F811
    """Old and new RPATHs keep their kind, RECORD is true, the plain wheel is required, scripts are not the variant's."""
    forced = library("--force-rpath", "--set-rpath", "$ORIGIN/../demo_torch29.libs:$ORIGIN").read_bytes()
    late = library("--set-rpath", "$ORIGIN/../torch/lib").read_bytes()
    kept = library("--set-rpath", "$ORIGIN/sub").read_bytes()
    own = project("demo")
    files: dict[str, str | bytes] = {
        "demo/__init__.py": "",
        "demo/forced.so": forced,
        "demo_torch29-1.0.data/platlib/demo/late.so": late,
        "demo/kept.so": kept,
        "demo_torch29.libs/libz-12345678.so": kept,
        "info/entry_points.txt": "[console_scripts]\ndemo = demo:main\n",
    }
    fields = ('Requires-Dist: numpy ; extra == "more"', "Provides-Extra: more", "", "What it is.\n\nMore.")
    made = variant(tmp_path, own, "2.9", "1.0", files, *fields)
    assert record_problems(made) == []
    found = read_wheel(made)
    assert sorted(found.members) == [
        "demo/_torch29/__init__.py",
        "demo/_torch29/_variant.txt",
        "demo/_torch29/forced.so",
        "demo/_torch29/kept.so",
        "demo/_torch29/late.so",
        "demo_torch29-1.0.dist-info/METADATA",
        "demo_torch29-1.0.dist-info/RECORD",
        "demo_torch29-1.0.dist-info/WHEEL",
        "demo_torch29-1.0.dist-info/plain_entry_points.txt",
        "demo_torch29.libs/libz-12345678.so",
    ]
    paths = {one.path: (one.run_paths, one.rpath) for one in found.libraries}
    assert paths["demo/_torch29/forced.so"] == (("$ORIGIN/../../demo_torch29.libs", "$ORIGIN"), True)
    assert paths["demo/_torch29/late.so"] == (("$ORIGIN/../../torch/lib",), False)
    assert found.metadata.get_all("Requires-Dist") == ["demo>=1.0", "torch==2.9.*", 'numpy ; extra == "more"']
    assert found.metadata.get_payload() == "What it is.\n\nMore.\n"
    with zipfile.ZipFile(made) as archive:
        assert archive.read("demo/_torch29/kept.so") == kept
    again = variant(tmp_path / "again", own, "2.9", "1.0", files, *fields)
    assert again.read_bytes() == made.read_bytes()
    assert tools.versions()["patchelf"]


def test_libraries_are_in_memory_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not as they were and as they become at the same time: a wheel's libraries may have gigabytes."""
    size = 4 << 20
    files: dict[str, str | bytes] = {
        f"demo/_{number}.so": elves.library() + random.Random(number).randbytes(size) for number in range(8)
    }
    monkeypatch.setattr(relocate, "_repatch", lambda _, content, *more: bytes(bytearray(content)))
    tracemalloc.start()
    try:
        variant(tmp_path, project("demo"), "2.9", "1.0", files)
        assert tracemalloc.get_traced_memory()[1] < 12 * size
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "name",
    [
        "demo_torch29-1.0.data/scripts/run",
        "other/x.py",
        "demo_torch29-1.0.data/data/share/x",
        "demo.libs/x.so",
        "demo.pth",
    ],
)
def test_what_every_variant_would_own(tmp_path: Path, name: str) -> None:
    with pytest.raises(RelocationError, match="every variant would own") as error:
        variant(tmp_path, project("demo"), "2.9", "1.0", {"demo/__init__.py": "", name: ""})
    assert name in str(error.value)


def test_two_files_that_would_become_one(tmp_path: Path) -> None:
    with pytest.raises(RelocationError, match=r"demo.py and demo/__init__.py would both become") as error:
        variant(tmp_path, project("demo"), "2.9", "1.0", {"demo/__init__.py": "", "demo.py": ""})
    assert "demo/_torch29/__init__.py" in str(error.value)


def test_run_paths_that_patchelf_cannot_tell_apart(tmp_path: Path, library: Make) -> None:  # noqa: F811
    """A library with RPATH and RUNPATH: the loader reads the second alone, patchelf changes one."""
    made = library("--force-rpath", "--set-rpath", "$ORIGIN/../aaaaaaaaaaa.libs")
    binary = lief.ELF.parse(str(made))
    assert binary
    binary.add(lief.ELF.DynamicEntryRunPath("$ORIGIN/../demo_torch29.libs"))
    binary.write(str(tmp_path / "both.so"))
    files: dict[str, str | bytes] = {"demo/__init__.py": "", "demo/both.so": (tmp_path / "both.so").read_bytes()}
    with pytest.raises(RelocationError, match=r"the run paths of demo/both.so do not become"):
        variant(tmp_path, project("demo"), "2.9", "1.0", files)


def test_a_version_that_a_requirement_cannot_name(tmp_path: Path) -> None:
    made = variant(tmp_path, project("demo"), "2.9", "1.0rc1+cu128", {"demo/__init__.py": ""})
    assert (read_wheel(made).metadata.get_all("Requires-Dist") or [])[0] == "demo>=1.0rc1"


def test_what_the_source_forgets_to_require(tmp_path: Path) -> None:
    """Requirements of the settings are in every variant as they are written, those of extras in the plain wheel too."""
    own = project("demo")
    requires = (
        "numpy[tests]>=1.26",
        'matplotlib ; extra == "plot"',
        "tqdm; python_version < '3.9' and 'More_Bars' == extra",
        "rich",
        "png; extra == 'Images'",
    )
    own = replace(own, settings=replace(own.settings, requires=requires))
    fields = ("Requires-Dist: rich", 'Requires-Dist: pillow ; extra == "images"', "Provides-Extra: images")
    made = variant(tmp_path, own, "2.9", "1.0", {"demo/__init__.py": ""}, *fields)
    metadata = read_wheel(made).metadata
    assert metadata.get_all("Requires-Dist") == [
        "demo>=1.0", "numpy[tests]>=1.26", 'matplotlib ; extra == "plot"', "tqdm; python_version < '3.9' and 'More_Bars' == extra",
        "png; extra == 'Images'", "torch==2.9.*", "rich", 'pillow ; extra == "images"',
    ]  # fmt: skip
    assert metadata.get_all("Provides-Extra") == ["plot", "more-bars", "images"]
    plain = read_wheel(one_name.write_plain(family(own, made, {"2.9": "1.0"}), tmp_path)).metadata
    assert {"plot", "images"} <= set(plain.get_all("Provides-Extra") or [])
    assert 'matplotlib ; extra == "plot"' in (plain.get_all("Requires-Dist") or [])
    assert not any("numpy" in line for line in plain.get_all("Requires-Dist") or []), "the variant brings it"


def test_a_compiled_module_of_its_own(tmp_path: Path) -> None:
    """It becomes the whole package, dispatched like any other."""
    from tests.wheels.test_dispatcher import Site  # noqa: PLC0415

    names = ("_bisect", "_json", "_lsprof", "_queue")  # which are files depends on how CPython was built
    origins = [(name, str(spec.origin)) for name in names if (spec := importlib.util.find_spec(name))]
    name, found = next((name, Path(origin)) for name, origin in origins if origin.endswith(".so"))
    site = Site(tmp_path, "demo", name)
    site.variants({found.name: found.read_bytes()}, "2.8", "2.9")
    site.torch("2.9.0")
    code = f"import {name} as m; print(m.__file__, len(dir(m)) > 9, sys.modules[{name!r}] is m)"
    assert site.says(code) == f"{site.folder}/{name}/_torch29/__init__{found.name[len(name) :]} True True"


def test_type_checkers_find_what_the_variant_has(tmp_path: Path) -> None:
    from tests.wheels.test_dispatcher import Site  # noqa: PLC0415

    files = {
        "demo/__init__.py": "from .typed import (\n    value,  # for all\n)\n",
        "demo/typed.py": "def value(x: int) -> str:\n    return str(x)\n",
        "demo/_core.pyi": "def fast(x: float) -> float: ...\n",
        "demo/py.typed": "",
    }
    site = Site(tmp_path)
    site.variants(files, "2.9")
    code = "import demo, demo._core\nreveal_type(demo.value(1))\nreveal_type(demo._core.fast(1.0))\ndemo.value('1')\n"
    (tmp_path / "user.py").write_text(code)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--cache-dir", tmp_path / "cache", "--config-file", "", tmp_path / "user.py"],
        env={"MYPYPATH": str(site.folder)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert 'Revealed type is "str"' in done.stdout.replace("builtins.", ""), done.stdout
    assert 'Revealed type is "float"' in done.stdout.replace("builtins.", "")
    assert 'incompatible type "str"' in done.stdout
    assert "Found 1 error in 1 file" in done.stdout
