"""The back end that gives another back end's wheel the variant's name, pin and requires-python."""

import importlib
import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import packaging
import pytest
from packaging.metadata import Metadata

import torch_build_farm
from torch_build_farm.core.wheel_archive import split_metadata
from torch_build_farm.pipeline.rendered_tree import _VARIANT_BACKEND_FILES
from torch_build_farm.wheels.wheel import read_wheel, record_problems

Rewrite = Callable[[str, dict[str, object]], str]

VARIANT: dict[str, object] = {"distribution": "demo-pkg-torch29", "pin": "==2.9.*", "cpython": ("3.10", "3.15")}
OWN = """\
Metadata-Version: 2.4
Name: Demo_Pkg
Version: 1.0
License: of several
        lines
Requires-Python: >=3.8,!=3.11.0
Requires-Dist: numpy
Requires-Dist: torch[opt-einsum]>=2.5; sys_platform == "linux"
Requires-Dist: torch<3
Provides-Extra: all
Requires-Dist: demo.pkg[gpu]; extra == "all"
Provides-Extra: gpu
Requires-Dist: torch>=2.6; extra == "gpu"
Dynamic: requires-dist

Name: not a field
Requires-Dist: torch
"""
WANTED = """\
Metadata-Version: 2.4
Name: demo-pkg-torch29
Version: 1.0
License: of several
        lines
Requires-Python: >=3.10,<3.15,!=3.11.0
Requires-Dist: numpy
Requires-Dist: torch[opt-einsum]==2.9.*
Provides-Extra: all
Requires-Dist: demo-pkg-torch29[gpu]; extra == "all"
Provides-Extra: gpu
Requires-Dist: torch==2.9.* ; extra == "gpu"
Dynamic: requires-dist

Name: not a field
Requires-Dist: torch
"""


def copy_backend(folder: Path) -> None:
    """Put the back end into `folder` as a rendered tree has it."""
    folder.mkdir(exist_ok=True)
    for path in _VARIANT_BACKEND_FILES:
        shutil.copy(Path(torch_build_farm.__file__).parent / path, folder)


@pytest.fixture
def rewrite_metadata(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rewrite:
    """The back end's function, imported from a copy as builds import it."""
    copy_backend(tmp_path / "backend")
    monkeypatch.syspath_prepend(tmp_path / "backend")
    for name in ("variant_backend", "variant_metadata", "wheel_archive"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    function: Rewrite = importlib.import_module("variant_backend").rewrite_metadata
    return function


def test_only_name_pin_and_requires_python_change(rewrite_metadata: Rewrite) -> None:
    assert rewrite_metadata(OWN, VARIANT) == WANTED
    assert rewrite_metadata(WANTED, VARIANT) == WANTED
    Metadata.from_email(WANTED)


def test_what_the_project_does_not_say_is_added(rewrite_metadata: Rewrite) -> None:
    own = 'Metadata-Version: 2.1\nName: demo\nVersion: 1\nRequires-Dist: torch>=2; extra == "x"\nProvides-Extra: x\n'
    assert rewrite_metadata(own, VARIANT).splitlines()[3:] == [
        "Requires-Python: >=3.10,<3.15",
        "Requires-Dist: torch==2.9.*",
        'Requires-Dist: torch==2.9.* ; extra == "x"',
        "Provides-Extra: x",
    ]


def test_a_description_with_other_line_ends_than_the_fields() -> None:
    """As setuptools writes them for a README with CRLF that setup.py reads as bytes."""
    text = "Metadata-Version: 2.1\nName: demo\nVersion: 1\nRequires-Dist: torch\n\nOne.\r\n\r\nTwo.\r\n"
    fields, newline, rest = split_metadata(text)
    assert (fields[1], len(fields), newline, rest) == ("Name: demo", 4, "\n", "\n\nOne.\r\n\r\nTwo.\r\n")


def test_every_other_byte_is_kept(rewrite_metadata: Rewrite) -> None:
    own = "Metadata-Version: 2.1\nName: demo\nVersion: 1\nSummary:  two blanks \nLicense: text\n        \n        end\nRequires-Python: >=3.6.*\n\nbody"
    made = rewrite_metadata(own, VARIANT)
    assert made == own.replace("Name: demo", "Name: demo-pkg-torch29").replace(
        "Requires-Python: >=3.6.*", "Requires-Python: >=3.10,<3.15\nRequires-Dist: torch==2.9.*"
    )
    windows = rewrite_metadata(own.replace("\n", "\r\n"), VARIANT)
    assert windows == made.replace("\n", "\r\n")


# A back end of the project's own, in its tree (backend-path), as setuptools would be: METADATA known to it alone.
BACKEND = """
import pathlib, zipfile
class hooks:
    def get_requires_for_build_wheel(config_settings=None):
        return ["cmake"]
    def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
        name = "demo_pkg-1.0-py3-none-any.whl"
        with zipfile.ZipFile(pathlib.Path(wheel_directory, name), "w") as archive:
            for member, text in MEMBERS.items():
                archive.writestr(zipfile.ZipInfo(member, (2020, 1, 2, 3, 4, 6)), text)
        return name
"""
MEMBERS = {
    ".gitignore": "*\n",
    "demo/__init__.py": "x = 1\n",
    "demo/.gitignore": "kept\n",
    "demo_pkg-1.0.data/data/share/demo.txt": "",
    "demo_pkg-1.0.dist-info/METADATA": OWN,
    "demo_pkg-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\n",
    "demo_pkg-1.0.dist-info/RECORD.jws": "a signature of the old RECORD",
    "demo_pkg-1.0.dist-info/RECORD": "",
}


def test_the_wheel_of_another_back_end_becomes_the_variants(tmp_path: Path) -> None:
    (tmp_path / "back").mkdir()
    (tmp_path / "back" / "own.py").write_text(f"MEMBERS = {MEMBERS!r}\n{BACKEND}")
    copy_backend(tmp_path / ".torch-build-farm")
    facts = {**VARIANT, "build-backend": "own:hooks", "backend-path": ["back"]}
    (tmp_path / ".torch-build-farm" / "variant.json").write_text(json.dumps(facts))
    # A build environment has packaging and no farm.
    (tmp_path / "environment").mkdir()
    (tmp_path / "environment" / "packaging").symlink_to(Path(packaging.__file__).parent)
    script = "import variant_backend as v; print(v.get_requires_for_build_wheel()); print(v.build_wheel('.'))"
    done = subprocess.run(
        [sys.executable, "-S", "-c", script],
        cwd=tmp_path,
        env={"PYTHONPATH": ".torch-build-farm:environment"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["['cmake']", "demo_pkg_torch29-1.0-py3-none-any.whl"]
    (made,) = tmp_path.glob("*.whl*")
    wheel = read_wheel(made)
    assert wheel.metadata["Name"] == "demo-pkg-torch29"
    assert record_problems(made) == []
    folder = "demo_pkg_torch29-1.0.dist-info"
    assert wheel.members == (
        "demo/__init__.py",
        "demo/.gitignore",
        "demo_pkg_torch29-1.0.data/data/share/demo.txt",
        f"{folder}/METADATA",
        f"{folder}/WHEEL",
        f"{folder}/RECORD",
    )
    with zipfile.ZipFile(made) as archive:
        assert {info.date_time for info in archive.infolist()} == {(2020, 1, 2, 3, 4, 6)}
        assert archive.read("demo/__init__.py") == b"x = 1\n"
