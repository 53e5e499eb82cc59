"""The wheels behind the one name: versions, requirements, extras, bytes."""

import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from tests.family import EPOCH, family, project, variant
from torch_build_farm.core.errors import MetaError
from torch_build_farm.core.versions import Minor
from torch_build_farm.publish import inventory
from torch_build_farm.publish.inventory import VariantFile
from torch_build_farm.wheels import one_name
from torch_build_farm.wheels.type_stubs import as_stub
from torch_build_farm.wheels.wheel import read_wheel, record_problems

FILES = {
    "demo/__init__.py": "from .a import b\n",
    "demo/a.py": "b = 1\n",
    "demo/_core.pyi": "def f() -> int: ...\n",
    "demo/py.typed": "",
    "info/licenses/LICENSE": "MIT\n",
    "info/NOTICE": "of an older back end\n",
    "info/entry_points.txt": "[console_scripts]\ndemo = demo:main\n",
}
FIELDS = (
    "Summary: What it does",
    "License: MIT",
    "License-File: LICENSE",
    "License-File: NOTICE",
    'Requires-Dist: numpy>=1 ; python_version > "3"',
    "Provides-Extra: plot",
    'Requires-Dist: matplotlib ; extra == "plot"',
    'Requires-Dist: torch[opt-einsum]==2.9.* ; extra == "plot"',
    'Requires-Dist: torch==2.9.* ; extra == "plot"',
    "Provides-Extra: all",
    'Requires-Dist: demo-torch29[plot] ; extra == "all"',
    "",
    "The description.",
)


@pytest.mark.parametrize(
    ("version", "prefix"),
    [
        ("0.1.115", "0.1.115.0.0"),
        ("0.1.115.post0", "0.1.115.0.1"),
        ("0.1.115.post13", "0.1.115.0.14"),
        ("1", "1.0.0.0.0"),
        ("1.2.3.4", "1.2.3.4.0"),
        ("1.2.3.4.post1", "1.2.3.4.2"),
    ],
)
def test_rungs_are_named_after_the_version(version: str, prefix: str) -> None:
    assert one_name.rung_prefix(version) == prefix
    assert one_name.rung_version(version, Minor(2, 10)) == f"{prefix}.210"


@pytest.mark.parametrize("version", ["1.0.dev1", "1.0rc1", "1.0+cu128", "1!1.0", "1.2.3.4.5"])
def test_versions_without_rungs_have_a_plain_wheel_alone(version: str, tmp_path: Path) -> None:
    assert one_name.rung_prefix(version) == ""
    own = project("demo")
    made = family(own, variant(tmp_path, own, "2.9", version, FILES), {"2.9": version})
    (plain,) = (read_wheel(path) for path in one_name.write(made, tmp_path))
    required = plain.metadata.get_all("Requires-Dist") or []
    assert f'demo-torch29=={version} ; extra == "torch29"' in required
    assert not [line for line in required if line.startswith("demo-auto")]
    assert f'pip install "demo[torch29]=={version}"' in one_name.without_rungs(made)


releases = st.lists(st.integers(0, 300), min_size=1, max_size=4).map(lambda parts: ".".join(map(str, parts)))
posts = st.one_of(st.none(), st.integers(0, 20)).map(lambda post: "" if post is None else f".post{post}")
versions = st.tuples(releases, posts).map("".join)


@given(versions, versions, st.sampled_from([Minor(2, 8), Minor(2, 10), Minor(3, 0)]))
def test_a_middle_wheel_admits_the_rungs_of_its_own_version_alone(one: str, other: str, minor: Minor) -> None:
    rung = Version(one_name.rung_version(other, minor))
    assert SpecifierSet(f"=={one_name.rung_prefix(one)}.*").contains(rung) == (Version(one) == Version(other))
    if Version(one) < Version(other):
        assert Version(one_name.rung_version(one, Minor(3, 99))) < rung


@given(versions, st.lists(st.tuples(st.integers(2, 9), st.integers(0, 99)), min_size=2, unique=True))
def test_rungs_stand_in_the_order_of_the_minors(version: str, numbers: list[tuple[int, int]]) -> None:
    minors = sorted(Minor(*pair) for pair in numbers)
    rungs = [Version(one_name.rung_version(version, minor)) for minor in minors]
    assert rungs == sorted(set(rungs))


def test_what_the_plain_wheel_says(tmp_path: Path) -> None:
    own = project("demo")
    model = variant(tmp_path, own, "2.9", "1.0.post0", FILES, *FIELDS)
    family_ = family(own, model, {"2.8": "0.9", "2.9": "1.0.post0"})
    made = {path.name.split("-")[0]: read_wheel(path) for path in one_name.write(family_, tmp_path)}
    plain = made["demo"].metadata
    assert (plain["Name"], plain["Version"], plain["Summary"], plain["License"]) == ("demo", "1.0.post0", "What it does", "MIT")  # fmt: skip
    assert plain["Requires-Python"] == ">=3.9"
    required = plain.get_all("Requires-Dist") or []
    assert required[:2] == ["torch>=2.8", "demo-auto==1.0.post0"], "uv decides in this order"
    assert required[2:6] == [
        'torch==2.8.* ; extra == "torch28"',
        'demo-torch28==0.9 ; extra == "torch28"',
        'torch==2.9.* ; extra == "torch29"',
        'demo-torch29==1.0.post0 ; extra == "torch29"',
    ]
    assert 'torch==2.10.* ; extra == "torch210"' in required, "extras are declared before their torch is released"
    assert 'torch==3.0.* ; extra == "torch30"' in required
    assert not [line for line in required if line.startswith("demo-torch210")]
    assert required[-3:] == [
        'matplotlib ; extra == "plot"', 'torch[opt-einsum]; extra == "plot"', 'demo[plot]; extra == "all"',
    ]  # fmt: skip
    assert not [line for line in required if line.startswith("numpy")], "the variant brings it"
    assert {"torch28", "torch29", "torch216", "plot", "all"} <= set(plain.get_all("Provides-Extra") or [])
    assert plain.get_payload() == "The description.\n"
    assert set(made["demo"].members) == {
        "demo/__init__.py", "demo/__init__.pyi", "demo/a.pyi", "demo/_core.pyi", "demo/py.typed",
        *(f"demo-1.0.post0.dist-info/{name}" for name in ("METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE", "NOTICE")),
    }  # fmt: skip
    assert made["demo_auto"].metadata.get_all("Requires-Dist") == ["demo-select==1.0.0.0.1.*"]
    rungs = {path.name: read_wheel(path).metadata.get_all("Requires-Dist") for path in tmp_path.glob("demo_select*")}
    assert rungs == {
        "demo_select-1.0.0.0.1.208-py3-none-any.whl": ["torch==2.8.*", "demo-torch28==0.9"],
        "demo_select-1.0.0.0.1.209-py3-none-any.whl": ["torch==2.9.*", "demo-torch29==1.0.post0"],
    }


def test_the_same_bytes_every_time_and_twine_agrees(tmp_path: Path) -> None:
    own = project("demo")
    for folder in (tmp_path / "a", tmp_path / "b"):
        model = variant(folder, own, "2.9", "1.0", FILES, *FIELDS)
        one_name.write(family(own, model, {"2.8": "1.0", "2.9": "1.0"}), folder)
    first, second = ({path.name: path.read_bytes() for path in (tmp_path / f).glob("*.whl")} for f in "ab")
    assert len(first) == 5
    assert first == second
    assert all(record_problems(path) == [] for path in (tmp_path / "a").glob("*.whl"))
    done = subprocess.run(
        [sys.executable, "-m", "twine", "check", *(tmp_path / "a").glob("*.whl")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "FAILED" not in done.stdout
    with zipfile.ZipFile(tmp_path / "a" / "demo-1.0-py3-none-any.whl") as archive:
        assert {info.date_time for info in archive.infolist()} == {(2001, 9, 9, 1, 46, 40)}
    assert EPOCH == 1_000_000_000


@pytest.mark.parametrize(
    ("source", "stub"),
    [
        ("from .a import b\n", "from .a import b as b\n"),
        ("if x:\n\tfrom .a import (b,  # why\n\t  c as d)  # noqa\n", "if x:\n\tfrom .a import b as b, c as d  # noqa\n"),
        ("from . import a; b = 1\n", "from . import a; b = 1\n"),
        ("from .a import *\nimport os\n", "from .a import *\nimport os\n"),
        ("é = 'é'; from .a import b", "é = 'é'; from .a import b"),
        ("'\u2028'\n\x0c\nfrom .é import b\r\nx", "'\u2028'\n\x0c\nfrom .é import b as b\r\nx"),
        ("not python(", "not python("),
    ],
)  # fmt: skip
def test_sources_as_stubs_offer_the_same_names(source: str, stub: str) -> None:
    assert as_stub(source.encode()).decode() == stub


def test_other_names(tmp_path: Path) -> None:
    own = project("demo")
    own = replace(own, settings=replace(own.settings, auto_name="demo-any", select_name="demo-of"))
    model = variant(tmp_path, own, "2.9", "1.0", FILES)
    names = {path.name for path in one_name.write(family(own, model, {"2.9": "1.0"}), tmp_path)}
    assert {name.split("-")[0] for name in names} == {"demo", "demo_any", "demo_of"}
    assert "demo-any==1.0" in (
        read_wheel(tmp_path / "demo-1.0-py3-none-any.whl").metadata.get_all("Requires-Dist") or []
    )
    assert read_wheel(tmp_path / "demo_any-1.0-py3-none-any.whl").metadata["Requires-Dist"] == "demo-of==1.0.0.0.0.*"


@pytest.mark.parametrize("extra", ["torch29", "Torch29"])
def test_extras_named_like_variants_are_refused(tmp_path: Path, extra: str) -> None:
    own = project("demo")
    model = variant(tmp_path, own, "2.9", "1.0", FILES, f"Provides-Extra: {extra}")
    with pytest.raises(MetaError, match=f"an extra of its own named {extra}"):
        one_name.write_plain(family(own, model, {"2.9": "1.0"}), tmp_path)


@pytest.mark.parametrize(
    "source",
    [
        b"x = " + b"+".join([b"1"] * 20_000),
        b"-" * 50_000 + b"1",
        b"a" + b".b" * 20_000,
        b"from .a import b\n" * 200_000,
    ],
    ids=["sum", "signs", "attributes", "long"],
)
def test_sources_that_are_too_much_to_parse_stay(source: bytes) -> None:
    """Generated ones are like that; the wheel was called damaged, or the machine out of memory."""
    assert as_stub(source) == source


def test_the_lowest_python_of_all() -> None:
    assert one_name.lowest_python([">=3.10,<3.15", ">=3.9,<3.14,!=3.11.0"]) == ">=3.9"


@pytest.mark.parametrize("text", [">=3.10.*", "no version", ">=" + "9" * 5000])
def test_a_python_that_an_index_states_and_nobody_understands(text: str) -> None:
    """It ended in a traceback, after which nothing could be published beside that file."""
    assert one_name.lowest_python([">=3.10", text]) == ">=3.9"


def test_no_extra_vanishes_between_two_minors(tmp_path: Path) -> None:
    """To pip an unknown extra is a warning, and then any variant will do."""
    own = project("demo")
    made = family(own, variant(tmp_path, own, "2.11", "1.0", FILES), {"2.8": "1.0", "2.11": "1.0", "3.2": "1.0"})
    plain = read_wheel(one_name.write_plain(made, tmp_path)).metadata
    extras = plain.get_all("Provides-Extra") or []
    assert extras[:5] == ["torch28", "torch29", "torch210", "torch211", "torch32"]
    assert len(set(extras)) == len(extras)
    assert 'torch==2.10.* ; extra == "torch210"' in (plain.get_all("Requires-Dist") or [])


def test_a_minors_last_variant_is_no_pre_release_and_no_local_version(tmp_path: Path) -> None:
    def files(*versions: str) -> list[VariantFile]:
        return [VariantFile(Minor(2, 8), version, f"{version}.whl", "cp312", "") for version in versions]

    assert inventory.last_built(files("0.9", "1.0rc1", "0.9.post1", "0.9.post1+cu128", "2.0"), "1.0") == {
        Minor(2, 8): "0.9.post1"
    }
    assert inventory.last_built(files("0.9", "1.0rc1"), "1.0rc1") == {Minor(2, 8): "1.0rc1"}
    (tmp_path / "not a wheel's name.whl").write_text("")
    assert inventory.built(project("demo"), tmp_path) == []


def test_an_index_that_does_not_repeat_requires_python_changes_nothing(tmp_path: Path) -> None:
    demo = project("demo")
    variant(tmp_path, demo, "2.9", "1.0", FILES)
    built = [replace(file, requires_python=">=3.10,<3.15") for file in inventory.built(demo, tmp_path)]
    published = [replace(file, requires_python="", path=None) for file in built]
    assert inventory.family(demo, built, published).requires_python == ">=3.10"


def required(path: Path) -> list[str]:
    return read_wheel(path).metadata.get_all("Requires-Dist") or []


def test_a_project_half_way_to_the_stable_abi(tmp_path: Path) -> None:
    own = project("demo", stable_abi="2.10")
    made = family(own, variant(tmp_path, own, "2.10", "1.0", FILES), {"2.8": "0.9", "2.9": "1.0", "2.10": "1.0"})
    *rungs, auto, plain = one_name.write(made, tmp_path)
    assert [required(rung) for rung in rungs] == [
        ["torch==2.8.*", "demo-torch28==0.9"],
        ["torch==2.9.*", "demo-torch29==1.0"],
        ["torch>=2.10", "demo-torch-stable==1.0"],
    ]
    assert rungs[-1].name == "demo_select-1.0.0.0.0.210-py3-none-any.whl"
    assert required(auto) == ["demo-select==1.0.0.0.0.*"]
    extras = [line for line in required(plain) if "extra ==" in line]
    assert 'demo-torch28==0.9 ; extra == "torch28"' in extras
    # Every known minor from 2.10 on, and those that are declared ahead.
    for minor in ("2.10", "2.12", "2.15", "2.16", "2.23", "3.0"):
        tag = Minor.parse(minor).tag
        assert f'torch=={minor}.* ; extra == "{tag}"' in extras
        assert f'demo-torch-stable==1.0 ; extra == "{tag}"' in extras
    assert required(plain)[:2] == ["torch>=2.8", "demo-auto==1.0"]


def test_stubs_of_the_stable_abis_variant(tmp_path: Path) -> None:
    own = project("demo", stable_abi="2.10")
    made = family(own, variant(tmp_path, own, "2.10", "1.0", FILES), {"2.10": "1.0"})
    assert {"demo/a.pyi", "demo/_core.pyi", "demo/py.typed"} <= set(made.model.files)


def test_a_stable_wheel_that_is_not_built_yet(tmp_path: Path) -> None:
    """Its extras pin torch alone, as those of a minor without a variant."""
    own = project("demo", stable_abi="2.10")
    made = family(own, variant(tmp_path, own, "2.9", "1.0", FILES), {"2.9": "1.0"})
    *rungs, _, plain = one_name.write(made, tmp_path)
    assert len(rungs) == 1
    assert not [line for line in required(plain) if "torch-stable" in line]
    assert 'torch==2.10.* ; extra == "torch210"' in required(plain)
