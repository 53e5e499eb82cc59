"""Libraries that another distribution or the user's system brings, in wheels with really linked libraries."""

import subprocess
import sys
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tests.family import make_wheel
from torch_build_farm.core.errors import ConfigError, RepairError
from torch_build_farm.core.process import Runner, Shell
from torch_build_farm.core.tools import environment
from torch_build_farm.pipeline.stages.repair import repair
from torch_build_farm.project.settings import Settings, load
from torch_build_farm.wheels.relocate import relocate
from torch_build_farm.wheels.wheel import Wheel

SETTINGS = Settings(name="demo", packages=("demo",))
BROUGHT = {"libacme.so*": "Acme_Core"}
REQUIRES = ("Requires-Dist: torch==2.9.*", "Requires-Dist: acme-core")


def linked(output: Path, source: str, *options: str) -> Path:
    """A shared library of C source."""
    output.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        ["gcc", "-shared", "-fPIC", "-x", "c", "-", "-o", output, *options], input=source.encode(), check=True
    )
    return output


@pytest.fixture
def acme(tmp_path: Path) -> Path:
    """The library that acme-core brings, in the build environment's packages."""
    folder = tmp_path / "env" / "lib" / "python3.11" / "site-packages" / "acme" / "lib"
    return linked(folder / "libacme.so.2", "int acme(void) { return 41; }", "-Wl,-soname,libacme.so.2")


def extension(acme: Path, output: Path, *options: str) -> bytes:
    source = "int acme(void); int answer(void) { return acme() + 1; }"
    return linked(output, source, f"-L{acme.parent}", "-l:libacme.so.2", *options).read_bytes()


def shell(folder: Path) -> Shell:
    return Shell(Runner(), environment(folder, folder), folder, folder / "log", print)


def repaired(
    folder: Path,
    settings: Settings,
    files: Mapping[str, str | bytes],
    *fields: str,
    interpreter_run_paths: Sequence[str] = (),
    linked_by: Sequence[str] = (),
) -> Wheel:
    raw = make_wheel(folder / "raw", "demo-torch29", "1.0", files, *fields or REQUIRES)
    raw = raw.rename(raw.with_name("demo_torch29-1.0-cp311-cp311-linux_x86_64.whl"))
    out = folder / "repaired"
    out.mkdir()
    wheel, _ = repair(
        raw,
        out,
        folder / "scratch",
        settings=settings,
        expected=(),
        builders=(),
        shell=shell(folder),
        interpreter_run_paths=interpreter_run_paths,
        linked_by=linked_by,
    )
    return wheel


def test_without_the_key_the_message_names_it(tmp_path: Path, acme: Path) -> None:
    files = {"demo/_core.so": extension(acme, tmp_path / "_core.so")}
    with pytest.raises(RepairError, match="could not be located") as caught:
        repaired(tmp_path, SETTINGS, files)
    assert "external-libraries" in caught.value.next_step


def test_a_library_of_a_requirement_is_found_after_relocation(tmp_path: Path, acme: Path) -> None:
    """A run path into the build environment becomes one from the library, and still leads there from _torch29/."""
    core = extension(acme, tmp_path / "_core.so", f"-Wl,-rpath,{acme.parent}")
    settings = replace(SETTINGS, external_libraries=BROUGHT)
    wheel = repaired(tmp_path, settings, {"demo/__init__.py": "", "demo/inner/_core.so": core})
    (library,) = wheel.libraries
    assert (library.needed[0], library.run_paths) == ("libacme.so.2", ("$ORIGIN/../../acme/lib",))

    for folder in ("relocated", "work", "site"):
        (tmp_path / folder).mkdir()
    moved = relocate(
        wheel.path, tmp_path / "relocated", tmp_path / "work", settings=settings, tag="torch29", shell=shell(tmp_path)
    )
    with zipfile.ZipFile(moved) as archive:
        archive.extractall(tmp_path / "site")
    (tmp_path / "site" / "acme").mkdir()
    acme.parent.rename(tmp_path / "site" / "acme" / "lib")
    code = f"import ctypes; print(ctypes.CDLL('{tmp_path}/site/demo/_torch29/inner/_core.so').answer())"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "42\n"


def test_run_paths_of_the_projects_own_stay(tmp_path: Path, acme: Path) -> None:
    core = extension(acme, tmp_path / "_core.so", "-Wl,-rpath,$ORIGIN/../acme/lib")
    wheel = repaired(tmp_path, replace(SETTINGS, external_libraries=BROUGHT), {"demo/_core.so": core})
    assert wheel.libraries[0].run_paths == ("$ORIGIN/../acme/lib",)


def test_a_library_of_the_system_needs_no_requirement(tmp_path: Path, acme: Path) -> None:
    core = extension(acme, tmp_path / "_core.so")
    settings = replace(SETTINGS, external_libraries={"libacme.so.?": "system"})
    assert repaired(tmp_path, settings, {"demo/_core.so": core}, REQUIRES[0]).libraries[0].run_paths == ()


def test_a_place_on_the_build_machine_does_not_become_the_systems(tmp_path: Path, acme: Path) -> None:
    """Only a distribution's library lies where its run path leads in another environment."""
    core = extension(acme, tmp_path / "_core.so", f"-Wl,-rpath,{acme.parent}")
    with pytest.raises(RepairError, match="a place on the build machine"):
        repaired(tmp_path, replace(SETTINGS, external_libraries={"libacme.so*": "system"}), {"demo/_core.so": core})


def test_the_wheel_has_to_require_who_brings_it(tmp_path: Path, acme: Path) -> None:
    core = extension(acme, tmp_path / "_core.so")
    with pytest.raises(
        RepairError, match=r"needs libacme\.so\.2, which Acme_Core brings .* does not require Acme_Core"
    ):
        repaired(tmp_path, replace(SETTINGS, external_libraries=BROUGHT), {"demo/_core.so": core}, REQUIRES[0])


def test_a_requirement_of_the_settings_counts(tmp_path: Path, acme: Path) -> None:
    core = extension(acme, tmp_path / "_core.so")
    settings = replace(SETTINGS, external_libraries=BROUGHT, requires=("acme_core>=1",))
    assert repaired(tmp_path, settings, {"demo/_core.so": core}, REQUIRES[0]).libraries[0].needed[0] == "libacme.so.2"


def test_a_copy_in_the_wheel_is_refused(tmp_path: Path, acme: Path) -> None:
    files = {"demo/_core.so": extension(acme, tmp_path / "_core.so"), "demo/libacme.so.2": acme.read_bytes()}
    with pytest.raises(RepairError, match=r"demo/libacme\.so\.2 is a library that Acme_Core brings"):
        repaired(tmp_path, replace(SETTINGS, external_libraries=BROUGHT), files)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('external-libraries = { "lib/libacme.so" = "acme" }', "'lib/libacme.so' is a path"),
        ('external-libraries = { "libacme" = "acme" }', "'libacme' matches no library"),
        ('external-libraries = { "libacme.so" = "not a name" }', "not a name"),
        ('external-libraries = ["libacme.so"]', "external-libraries"),
    ],
)
def test_wrong_values(tmp_path: Path, line: str, words: str) -> None:
    text = f'[tool.torch-build-farm]\nname = "demo"\npackages = ["demo"]\n{line}\n'
    (tmp_path / "pyproject.toml").write_text(text)
    with pytest.raises(ConfigError, match=words):
        load(tmp_path, tmp_path)


def test_a_library_of_the_projects_own_that_is_called_after_torch(tmp_path: Path) -> None:
    """The extension's own libtorchfoo.so stays in the wheel; one from outside it is grafted like any other."""
    own = linked(tmp_path / "libtorchfoo.so", "int foo(void) { return 40; }", "-Wl,-soname,libtorchfoo.so")
    link = (f"-L{tmp_path}", "-ltorchfoo", "-Wl,--no-as-needed")
    source = "int foo(void); int answer(void) { return foo() + 2; }"
    beside = linked(tmp_path / "_core.so", source, *link, "-Wl,-rpath,$ORIGIN").read_bytes()
    kept = repaired(tmp_path / "kept", SETTINGS, {"demo/_core.so": beside, "demo/libtorchfoo.so": own.read_bytes()})
    assert {library.path for library in kept.libraries} == {"demo/_core.so", "demo/libtorchfoo.so"}

    outside = linked(tmp_path / "_core.so", source, *link, f"-Wl,-rpath,{tmp_path}").read_bytes()
    settings = replace(SETTINGS, grafted_libraries=("libtorchfoo.so*",))
    grafted = repaired(tmp_path / "grafted", settings, {"demo/_core.so": outside})
    assert [library.path.partition("-")[0] for library in grafted.libraries] == [
        "demo/_core.so",
        "demo_torch29.libs/libtorchfoo",
    ]


def test_run_paths_of_the_interpreters_linker_flags_are_left_out(tmp_path: Path, acme: Path) -> None:
    """Of three entries, the one that only CPython's flags added goes; nothing is left of a library without others."""
    flags = ("-Wl,-rpath,/opt/python/lib/", "-Wl,-rpath,$ORIGIN/../acme/lib")
    files = {
        "demo/_core.so": extension(acme, tmp_path / "_core.so", *flags),
        "demo/_alone.so": linked(tmp_path / "_alone.so", "int alone;", "-Wl,-rpath,/opt/python/lib").read_bytes(),
    }
    settings = replace(SETTINGS, external_libraries=BROUGHT)
    wheel = repaired(tmp_path, settings, files, interpreter_run_paths=["/opt/python/lib"])
    assert {library.path: library.run_paths for library in wheel.libraries} == {
        "demo/_core.so": ("$ORIGIN/../acme/lib",),
        "demo/_alone.so": (),
    }


@pytest.mark.parametrize(
    ("linked_by", "advice"),
    [
        (["setuptools"], "leave runtime_library_dirs out of the extension"),
        (["meson"], "set install_rpath of the target"),
        (["cmake"], "set CMAKE_INSTALL_RPATH"),
        (["setuptools", "cmake"], "LDFLAGS; or set CMAKE_INSTALL_RPATH"),
        ([], "leave -Wl,-rpath out of the linker's flags"),
    ],
)
def test_advice_fits_what_linked_the_library(tmp_path: Path, linked_by: list[str], advice: str) -> None:
    files = {"demo/_core.so": linked(tmp_path / "_core.so", "int x;", "-Wl,-rpath,/opt/other/lib").read_bytes()}
    with pytest.raises(RepairError, match=r"RUNPATH entry /opt/other/lib") as caught:
        repaired(tmp_path, SETTINGS, files, interpreter_run_paths=["/opt/python/lib"], linked_by=linked_by)
    assert advice in caught.value.what
