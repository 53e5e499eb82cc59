"""Scripts, data and headers that are the same for every variant: the plain wheel owns them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from tests import elves
from tests.family import project, torch, variant
from tests.pipeline.test_repair import SETTINGS, Make, library, wheel  # noqa: F401 (a fixture)
from tests.wheels.test_namespaces import Environment
from torch_build_farm.core.errors import MetaError, RelocationError
from torch_build_farm.project.settings import Project
from torch_build_farm.publish import inventory
from torch_build_farm.wheels import checks, one_name
from torch_build_farm.wheels.wheel import read_wheel, record_problems

DATA = "demo_@-1.0.data"  # @ is the variant's tag
FILES = {
    "demo/__init__.py": "VALUE = 'of @'\n",
    f"{DATA}/scripts/demo-tool": "#!/build/@/bin/python3.12 -s\nimport demo\nprint('tool', demo.VALUE)\n",
    f"{DATA}/scripts/demo-shell": "#!/bin/sh\necho shell\n",
    f"{DATA}/data/share/demo/table.txt": "1 2 3\n",
    f"{DATA}/headers/demo.h": "#pragma once\n",
    f"{DATA}/platlib/demo_conftest.py": "",
    "notes.txt": "of all\n",
}
PATTERNS = ("scripts/*", "data/share/*", "headers/demo.h", "purelib/demo_conftest.py", "purelib/notes.txt")


def own(*patterns: str) -> Project:
    made = project("demo")
    return replace(made, settings=replace(made.settings, plain_files=patterns))


def made(folder: Path, minor: str, files: Mapping[str, str] = FILES, patterns: tuple[str, ...] = PATTERNS) -> Path:
    tag = f"torch{minor.replace('.', '')}"
    texts: dict[str, str | bytes] = {name.replace("@", tag): text.replace("@", tag) for name, text in files.items()}
    return variant(folder, own(*patterns), minor, "1.0", texts)


def behind(folder: Path) -> list[Path]:
    """The wheels behind the one name, as `meta` makes them of what is built in a folder."""
    project = own(*PATTERNS)
    return one_name.write(inventory.family(project, inventory.built(project, folder), ()), folder)


def test_the_plain_wheel_has_them_and_no_variant(tmp_path: Path) -> None:
    variants = [made(tmp_path, minor) for minor in ("2.8", "2.9")]
    plain = read_wheel(behind(tmp_path)[-1])
    assert record_problems(plain.path) == []
    kept = {member for member in plain.members if not member.startswith(("demo/", "demo-1.0.dist-info/"))}
    assert kept == {
        "demo-1.0.data/scripts/demo-tool",
        "demo-1.0.data/scripts/demo-shell",
        "demo-1.0.data/data/share/demo/table.txt",
        "demo-1.0.data/headers/demo.h",
        "demo_conftest.py",
        "notes.txt",
    }
    for path in variants:
        strangers = [name for name in read_wheel(path).members if "torch2" not in name]
        assert strangers == []
        assert record_problems(path) == []


def test_they_outlive_every_variant(tmp_path: Path) -> None:
    environment = Environment(tmp_path)
    wheels = [made(environment.made, minor) for minor in ("2.8", "2.9")]
    environment.install(torch(environment.made, "2.9.0"), *wheels, behind(environment.made)[-1])
    home = environment.home
    assert (home / "share" / "demo" / "table.txt").read_text() == "1 2 3\n"
    assert environment.output(home / "bin" / "demo-tool") == "tool of torch29"
    assert environment.output(home / "bin" / "demo-shell") == "shell"
    assert list(home.glob("include/**/demo.h"))
    environment.uninstall("demo-torch28")
    assert environment.output(home / "bin" / "demo-tool") == "tool of torch29"
    assert (home / "share" / "demo" / "table.txt").is_file()
    environment.uninstall("demo")
    assert not (home / "bin" / "demo-tool").exists()


@pytest.mark.parametrize(
    ("changed", "difference"),
    [
        ({f"{DATA}/data/share/demo/table.txt": "1 2 3\n4 of @\n"}, "data/share/demo/table.txt in line 2"),
        ({f"{DATA}/scripts/demo-tool": "#!/build/@/bin/python\nimport demo_@\n"}, "scripts/demo-tool in line 2"),
        ({f"{DATA}/scripts/demo-shell": "#!/bin/@\necho shell\n"}, "scripts/demo-shell in line 1"),
        ({f"{DATA}/headers/demo.h": "#pragma once\n// @\n", "notes.txt": "@"}, "headers/demo.h in line 2"),
    ],
)
def test_what_differs_is_named(tmp_path: Path, changed: dict[str, str], difference: str) -> None:
    for minor in ("2.8", "2.9"):
        made(tmp_path, minor, {**FILES, **changed})
    with pytest.raises(MetaError) as error:
        behind(tmp_path)
    assert error.value.what.endswith(f"differ in {difference}")
    assert "demo_torch28-1.0" in error.value.what


def test_what_one_variant_alone_has_is_named(tmp_path: Path) -> None:
    made(tmp_path, "2.8")
    made(tmp_path, "2.9", {**FILES, f"{DATA}/scripts/more": "#!/bin/sh\n"})
    with pytest.raises(MetaError, match="scripts/more, which only one of them has"):
        behind(tmp_path)


def test_compiled_code_is_not_the_same_for_every_platform(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {"demo/__init__.py": "", "demo_torch29-1.0.data/scripts/run": elves.library()}
    with pytest.raises(RelocationError, match=r"scripts/run is compiled"):
        variant(tmp_path, own("scripts/*"), "2.9", "1.0", files)


def test_what_no_pattern_names_is_refused_with_the_pattern_for_it(tmp_path: Path) -> None:
    with pytest.raises(
        RelocationError, match=r"every variant would own demo_torch29-1.0.data/scripts/demo-shell"
    ) as error:
        made(tmp_path, "2.9", patterns=("scripts/demo-tool", *PATTERNS[1:]))
    assert 'plain-files = ["scripts/demo-shell"]' in error.value.next_step


def test_the_checks_after_auditwheel_leave_them_alone(tmp_path: Path, library: Make) -> None:  # noqa: F811
    files = {
        "demo/_core.so": library().read_bytes(),
        "include/demo.h": b"",
        "demo_torch29-1.0.data/data/share/demo/table.txt": b"",
    }
    settings = replace(SETTINGS, plain_files=("purelib/include/*",))
    (said,) = checks.problems(wheel(tmp_path, files), settings)
    assert said.startswith("data/share (1 file) lies outside the packages demo")
    assert "by plain-files" in said
