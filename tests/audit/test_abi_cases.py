"""The cases that `audit` is measured against say what they have to, once for each wheel (or library) and torch."""

from __future__ import annotations

import collections
import tomllib
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parent.parent / "abi_cases"
PACKAGES = tomllib.loads((FOLDER / "packages.toml").read_text())
CASES = [
    case for name in ("cases.toml", "cases-aarch64.toml") for case in tomllib.loads((FOLDER / name).read_text())["case"]
]
SEEN = {"OK": {"computes", "loads"}, "BROKEN": {"breaks"}, "ENV": {"breaks", "computes", "loads"}}


def test_packages_name_snippets_that_exist() -> None:
    for entry in PACKAGES["wheel"]:
        for key in ("compute", "each_compute"):
            assert entry.get(key, "torchvision") in PACKAGES["compute"], entry
    for name, snippet in PACKAGES["compute"].items():
        compile(snippet, name, "exec")
        assert "assert" in snippet, name


def test_every_pair_has_one_case() -> None:
    counted = collections.Counter((case["wheel"], case["torch"], case.get("library")) for case in CASES)
    assert [key for key, count in counted.items() if count > 1] == []
    assert {case["wheel"] for case in CASES} <= {entry["file"] for entry in PACKAGES["wheel"]}


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['wheel'].split('-cp')[0]} {case['torch']}")
def test_a_case_says_what_was_seen(case: dict[str, Any]) -> None:
    assert case["seen"] in SEEN[case["verdict"]]
    if case["verdict"] == "BROKEN":
        assert case.get("missing_first") or case.get("missing") or case.get("libraries") or case.get("layout"), case
    if case["verdict"] == "ENV":
        assert case["libraries"]
    if case["verdict"] == "OK":
        assert not any(key in case for key in ("missing", "libraries", "layout"))
