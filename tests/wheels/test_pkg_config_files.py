"""pkg-config's files after relocation, asked by pkg-config itself."""

from __future__ import annotations

import os
import subprocess
import tracemalloc
import zipfile
from pathlib import Path

import pytest

from tests.family import project, variant
from torch_build_farm.wheels.pkg_config_files import moved
from torch_build_farm.wheels.relocate import Move

HEAD = "Name: demo\nDescription: a library\nVersion: 1\n"
# Site-packages is the prefix, as it is for scikit-build-core.
ABOVE = f"""prefix=${{pcfiledir}}/../../..
exec_prefix = ${{prefix}}
libdir=${{exec_prefix}}/demo/lib
includedir="${{prefix}}/demo/include"
{HEAD}Cflags: -I${{includedir}}
Libs: -L${{libdir}} -ldemo
"""
# As Meson writes it with pkgconfig.relocatable, where the package is the prefix.
WITHIN = f"""prefix=${{pcfiledir}}/../..
{HEAD}Cflags: -I${{prefix}}/include
Libs: -L${{prefix}}/lib -ldemo
"""
DIRECT = f"{HEAD}Cflags: -I${{pcfiledir}}/../../../demo/include\nLibs: -L${{pcfiledir}}/.. -ldemo\n"


@pytest.mark.parametrize("text", [ABOVE, WITHIN, DIRECT], ids=["above", "within", "direct"])
def test_a_program_is_built_with_the_library_of_a_relocated_wheel(tmp_path: Path, text: str) -> None:
    (tmp_path / "demo.c").write_text("int answer(void) { return 42; }\n")
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", "libdemo.so", "demo.c"], cwd=tmp_path, check=True)
    files: dict[str, str | bytes] = {
        "demo/__init__.py": "",
        "demo/include/demo.h": "int answer(void);\n",
        "demo/lib/libdemo.so": (tmp_path / "libdemo.so").read_bytes(),
        "demo/lib/pkgconfig/demo.pc": text,
    }
    wheel = variant(tmp_path / "wheels", project("demo"), "2.9", "1.0", files)
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")

    pkg_config_path = tmp_path / "site/demo/_torch29/lib/pkgconfig"
    ask = ["pkg-config", "--cflags", "--libs", "demo"]
    environment = {**os.environ, "PKG_CONFIG_PATH": str(pkg_config_path)}
    answer = subprocess.run(ask, env=environment, check=True, capture_output=True, text=True).stdout.split()
    (tmp_path / "main.c").write_text("#include <demo.h>\nint main(void) { return answer(); }\n")
    subprocess.run(["gcc", "main.c", "-o", "main", *answer], cwd=tmp_path, check=True)
    libraries = {"LD_LIBRARY_PATH": str(tmp_path / "site/demo/_torch29/lib")}
    assert subprocess.run([tmp_path / "main"], env=libraries, check=False).returncode == 42


MOVE = Move(("demo", "ns.sub"), "torch29")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"a=${pcfiledir}/../../torch/lib", b"a=${pcfiledir}/../../../torch/lib"),
        (b"Libs: -L${pcfiledir}/../../ns/sub/", b"Libs: -L${pcfiledir}/../../../ns/sub/_torch29/"),
        # What leads out of site-packages leads to the same place, however deep that lies.
        (b"a=${pcfiledir}/../../../../../../usr", b"a=${pcfiledir}/../../../../../../../usr"),
        (b"a=${pcfiledir}/../..\nb=${a}/${name}/demo", b"a=${pcfiledir}/../../..\nb=${a}/${name}/demo"),
        (b"a=${pcfiledir}/../..\nb=${a}/demo/${name}", b"a=${pcfiledir}/../../..\nb=${a}/demo/_torch29/${name}"),
        (
            b"a=${pcfiledir}/../..\nb = ${a}/demo \nc=${b}/x",
            b"a=${pcfiledir}/../../..\nb = ${a}/demo/_torch29 \nc=${b}/x",
        ),
        # Neither is a place that this file states.
        (b"prefix=/usr/local\nlibdir=${prefix}/demo", b"prefix=/usr/local\nlibdir=${prefix}/demo"),
        (b"a=${pcfiledir}/.. -DX\nb=${a}/demo \xff\r", b"a=${pcfiledir}/.. -DX\nb=${a}/demo \xff\r"),
        (b"a=${pcfiledir}/../..\r\nb=${a}/demo\r\n", b"a=${pcfiledir}/../../..\r\nb=${a}/demo/_torch29\r\n"),
    ],
)
def test_places_lead_where_they_led(old: bytes, new: bytes) -> None:
    assert moved("demo/pkgconfig/a.pc", old, MOVE.folder) == new


def test_a_place_that_is_longer_than_any_path_is_none() -> None:
    long_name = b"x" * 5000
    content = b"a=${pcfiledir}/../..\nb=${a}/" + long_name + b"\nc=${b}/../demo"
    assert moved("demo/pkgconfig/a.pc", content, MOVE.folder) == content.replace(b"/../..", b"/../../..", 1)


def test_definitions_that_lengthen_each_other_take_little_memory() -> None:
    lines = [b"a0=${pcfiledir}/x"]
    for number in range(1, 1500):
        lines.append(b"a%d=${a%d}/" % (number, number - 1) + b"x" * 200)
    content = b"\n".join(lines)
    tracemalloc.start()
    try:
        moved("demo/pkgconfig/a.pc", content, MOVE.folder)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 20 * len(content)
