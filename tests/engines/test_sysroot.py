"""Sysroots: what is known of a foreign system without running any of it."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path

import pytest

from torch_build_farm.core.errors import ToolError
from torch_build_farm.core.machine import ARM64
from torch_build_farm.core.versions import CPython
from torch_build_farm.engines.sysroot import Sysroot, variable_of

CP311 = CPython(3, 11)


def add_python(prefix: Path, include: str, *, name: str = "python3.11", headers: Path | None = None) -> None:
    """A CPython in a folder of a sysroot; `include` is the path of its headers in that system."""
    (prefix / "bin").mkdir(parents=True)
    (prefix / "bin" / name).write_text("")
    library = prefix / "lib" / name
    library.mkdir(parents=True)
    (library / "_sysconfigdata__linux_aarch64-linux-gnu.py").write_text(
        "# system configuration generated and used by the sysconfig module\n"
        f"build_time_vars = {{'INCLUDEPY': {include!r}, 'EXT_SUFFIX': '.cpython-311-aarch64-linux-gnu.so'}}\n"
    )
    if headers:
        headers.mkdir(parents=True)
        (headers / "Python.h").write_text("")
        (headers / "patchlevel.h").write_text('#define PY_VERSION      \t"3.11.9+"\n')


def test_a_cpython_is_found_with_its_version_and_headers(tmp_path: Path) -> None:
    add_python(tmp_path / "usr", "/usr/include/python3.11", headers=tmp_path / "usr" / "include" / "python3.11")
    python = Sysroot(ARM64, tmp_path).pythons[CP311]
    assert (python.version, python.include) == ("3.11.9", str(tmp_path / "usr" / "include" / "python3.11"))
    assert python.variables["EXT_SUFFIX"] == ".cpython-311-aarch64-linux-gnu.so"


def test_links_of_that_system_are_followed_within_it(tmp_path: Path) -> None:
    """As in manylinux images: /opt/python/cp311-cp311 links to /opt/_internal/cpython-3.11.9, by its absolute path."""
    home = tmp_path / "opt" / "_internal" / "cpython-3.11.9"
    add_python(home, "/opt/_internal/cpython-3.11.9/include", headers=home / "include")
    (tmp_path / "opt" / "python").mkdir()
    (tmp_path / "opt" / "python" / "cp311-cp311").symlink_to("/opt/_internal/cpython-3.11.9")
    python = Sysroot(ARM64, tmp_path).pythons[CP311]
    assert python.executable == home / "bin" / "python3.11"
    assert python.include == str(home / "include")


def test_a_link_out_of_the_system_leads_nowhere(tmp_path: Path) -> None:
    root = tmp_path / "root"
    add_python(tmp_path / "outside", "/include", headers=tmp_path / "outside" / "include")
    (root / "usr").mkdir(parents=True)
    (root / "usr" / "bin").symlink_to("../../outside/bin")
    assert not Sysroot(ARM64, root).pythons


def test_a_library_out_of_the_system_is_not_read(tmp_path: Path) -> None:
    root = tmp_path / "root"
    add_python(tmp_path / "outside", "/include")
    (root / "usr" / "bin").mkdir(parents=True)
    (root / "usr" / "bin" / "python3.11").write_text("")
    (root / "usr" / "lib").symlink_to(tmp_path / "outside" / "lib")
    assert not Sysroot(ARM64, root).pythons


def test_more_links_than_are_followed_lead_nowhere(tmp_path: Path) -> None:
    root = tmp_path / "root"
    add_python(root / "usr", "/include")
    python = root / "usr" / "bin" / "python3.11"
    python.unlink()
    (tmp_path / "outside").write_text("")
    links = [python, *(python.with_name(f"link{number}") for number in range(60))]
    for link, target in pairwise([*links, tmp_path / "outside"]):
        link.symlink_to(target.name if target in links else target)
    assert not Sysroot(ARM64, root).pythons


@pytest.mark.parametrize("name", ["lib/python3.11/_sysconfigdata__linux_aarch64-linux-gnu.py", "include/patchlevel.h"])
def test_a_fifo_in_place_of_a_file_is_not_waited_for(name: str, tmp_path: Path) -> None:
    add_python(tmp_path / "usr", "/usr/include", headers=tmp_path / "usr" / "include")
    path = tmp_path / "usr" / name
    path.unlink()
    os.mkfifo(path)
    python = Sysroot(ARM64, tmp_path).pythons.get(CP311)
    assert python is None or python.version == ""


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    (tmp_path / "usr" / "bin").mkdir(parents=True)
    (tmp_path / "usr" / "bin" / "python3.11").symlink_to("python3.11")
    assert not Sysroot(ARM64, tmp_path).pythons


def test_a_cpython_without_headers_has_no_version(tmp_path: Path) -> None:
    add_python(tmp_path / "usr", "/usr/include/python3.11")
    assert Sysroot(ARM64, tmp_path).pythons[CP311].version == ""


@pytest.mark.parametrize(
    "text",
    [
        "build_time_vars = open('executed', 'w')\n",
        "build_time_vars = [1]\n",
        "build_time_vars = {[]: 1}\n",
        f"build_time_vars = {'-' * 10_000}1\n",
        f"build_time_vars = {{}}\n{'#' * (1 << 20)}\n",
        "not Python (\n",
        "other = {}\n",
        "\0",
    ],
    ids=["a call", "a list", "no key", "deep", "large", "no Python", "other", "NUL"],
)
def test_its_sysconfig_is_read_and_not_executed(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    add_python(tmp_path / "usr", "/usr/include/python3.11")
    (data,) = tmp_path.glob("usr/lib/python3.11/_sysconfigdata_*")
    data.write_text(text)
    assert not Sysroot(ARM64, tmp_path).pythons
    assert not (tmp_path / "executed").exists()


def test_its_sysconfig_has_texts_and_numbers(tmp_path: Path) -> None:
    add_python(tmp_path / "usr", "/usr/include/python3.11")
    (data,) = tmp_path.glob("usr/lib/python3.11/_sysconfigdata_*")
    data.write_text("build_time_vars = {'CC': b'gcc', 'SOABI': 'cpython-311', 'SIZEOF_VOID_P': 8}\n")
    assert Sysroot(ARM64, tmp_path).pythons[CP311].variables == {"SOABI": "cpython-311", "SIZEOF_VOID_P": 8}


@pytest.mark.parametrize(("built_for", "fits"), [("aarch64-unknown-linux-gnu", True), ("x86_64-pc-linux-gnu", False)])
def test_a_system_of_another_machine_is_refused(built_for: str, fits: bool, tmp_path: Path) -> None:
    add_python(tmp_path / "usr", "/usr/include/python3.11")
    (data,) = tmp_path.glob("usr/lib/python3.11/_sysconfigdata_*")
    data.write_text(f"build_time_vars = {{'HOST_GNU_TYPE': {built_for!r}}}\n")
    if fits:
        assert Sysroot(ARM64, tmp_path).pythons
    else:
        with pytest.raises(ToolError, match="a system of another machine: its CPython is for x86_64-pc-linux-gnu"):
            assert Sysroot(ARM64, tmp_path).pythons


def test_a_free_threaded_cpython_is_another(tmp_path: Path) -> None:
    add_python(tmp_path / "usr", "/i", name="python3.13t", headers=tmp_path / "i")
    assert list(Sysroot(ARM64, tmp_path).pythons) == [CPython(3, 13, free_threaded=True)]


@pytest.mark.parametrize("named", ["relative", "/nonexistent/folder"])
def test_what_is_no_folder_is_refused_by_the_variable_that_names_it(
    named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable_of(ARM64), named)
    with pytest.raises(ToolError) as raised:
        Sysroot.of(ARM64)
    assert "TORCH_BUILD_FARM_SYSROOT_AARCH64" in raised.value.what
    assert raised.value.where == named


def test_programs_that_do_not_run_here(tmp_path: Path) -> None:
    """Debian's package of QEMU registers it where systemd or binfmt-support runs, and in few containers."""
    add_python(tmp_path / "root" / "usr", "/usr/include/python3.11")
    with pytest.raises(ToolError, match="programs for arm64 do not run here") as raised:
        Sysroot(ARM64, tmp_path / "root").check_emulation(CP311, tmp_path / "prefix")
    assert "`ci/qemu`" in raised.value.next_step


def test_a_path_with_a_space_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "arm 64").mkdir()
    monkeypatch.setenv(variable_of(ARM64), str(tmp_path / "arm 64"))
    with pytest.raises(ToolError, match="has a space, which compiler options cannot carry"):
        Sysroot.of(ARM64)


def test_qemu_finds_no_processors_of_this_machine(tmp_path: Path) -> None:
    """Else torch's cpuinfo takes them for arm64's, and torch 2.13 crashes."""
    root = tmp_path / "root"
    (root / "usr").mkdir(parents=True)
    prefix = tmp_path / "prefix"
    for _ in range(2):
        assert Sysroot(ARM64, root).environment(prefix) == {"QEMU_LD_PREFIX": str(prefix)}
    assert (prefix / "sys/devices/system/cpu/possible").read_text() == ""
    assert (prefix / "usr").readlink() == root / "usr"
