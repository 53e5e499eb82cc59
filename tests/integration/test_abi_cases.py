"""The audit against what was seen: real wheels that were loaded, imported and made to compute beside real torches.

The cases and how they were seen: tests/abi_cases, ci/abi_truth.py. Wheels are fetched by exact name into the store.
"""

from __future__ import annotations

import tomllib
from collections import Counter, defaultdict
from collections.abc import Iterator
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import CHECKOUT
from torch_build_farm.audit import read_wheel, wheel_report
from torch_build_farm.audit.loader import policy
from torch_build_farm.audit.tables import AuditTables
from torch_build_farm.audit.verdict import Finding
from torch_build_farm.core.machine import MACHINES, X86_64, Machine
from torch_build_farm.core.package_index import PackageIndex
from torch_build_farm.core.store import default_folder
from torch_build_farm.releases.symbol_table import mask_of
from torch_build_farm.wheels.elf.library import Elf

pytestmark = [pytest.mark.torch, pytest.mark.network]

Case = dict[str, Any]
FOLDER = CHECKOUT / "tests" / "abi_cases"
SHARED = "shared.toml"


def table(name: str) -> dict[str, list[Case]]:
    return tomllib.loads((FOLDER / name).read_text("utf-8"))


@cache
def fetched(name: str) -> Path:
    path = default_folder() / "abi-cases" / name
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        index = PackageIndex.configured()
        (file,) = (one for one in index.files(name.partition("-")[0].replace("_", "-")) if one.filename == name)
        part = path.with_suffix(".part")
        index.download(file, part)
        part.rename(path)
    return path


@pytest.fixture(scope="module")
def known() -> AuditTables:
    return AuditTables.load(Path("/nonexistent"))  # what is shipped


def suffixed(name: str, machine: Machine) -> str:
    """The file for a machine: cases.toml for x86-64, cases-aarch64.toml for arm64."""
    return name if machine == X86_64 else name.replace(".", f"-{machine.name}.")


def judged(known: AuditTables, cases: list[Case]) -> Iterator[tuple[Case, Finding, str]]:
    """Each case with what the audit finds, and the library's kind; a wheel is read once."""
    of_wheel = defaultdict(list)
    for case in cases:
        of_wheel[case["wheel"]].append(case)
    for name, its in of_wheel.items():
        report = wheel_report.audit(read_wheel.read(fetched(name)), known, known.releases)
        by_path = {one.path: one for one in report.libraries}
        for case in its:
            library = by_path[case["library"]] if "library" in case else None
            releases = library.releases if library else report.releases
            yield case, releases[case["torch"]], library.kind.value if library else ""


def told(case: Case) -> str:
    return f"{case['wheel']} {case.get('library', '')} torch {case['torch']}"


def test_the_shared_cases(known: AuditTables) -> None:
    cases = table(SHARED)["case"]
    for case, found, kind in judged(known, cases):
        assert found.verdict.value == case["verdict"], told(case)
        if "missing" in case:
            assert list(found.missing) == case["missing"], told(case)
        if "missing_count" in case:
            assert len(found.missing) == case["missing_count"], told(case)
        assert bool(found.layout) or not case.get("layout"), told(case)
        assert kind == case.get("kind", kind), told(case)


def expected(case: Case, found: str, explained: dict[str, list[Case]], used: set[int]) -> str:
    """What the audit has to say of a pair; `used` gathers the explanations that were needed."""
    for number, row in enumerate(explained["differs"]):
        torchs = row.get("torch") or [case["torch"]]
        if (
            fnmatch(case["wheel"], row["wheel"])
            and case["torch"] in torchs
            and found == row["audit"] != case["verdict"]
        ):
            used.add(number)
            return found
    if "library" not in case and case["seen"] == "computes" and found == "ENV":
        return found  # whether what it asks for was missing is asked apart
    # The loader stops at the first library that is not there, and tells nothing of what is wrong behind it.
    return found if (case["verdict"], found) == ("ENV", "BROKEN") else case["verdict"]


def unseen(case: Case, found: Finding, known: AuditTables) -> set[str]:
    """Torch's names that the loader missed and the audit does not miss.

    The loader had one library at a time, without what the package loads before it: the wheel's own other libraries, or
    libtorch_python. Of libraries for other torches the audit gives no names.
    """
    if "it only has libraries for torch" in found.note:
        return set()
    theirs = {name for name in case.get("missing", ()) if policy().mentions_torch.fullmatch(name)} - set(found.missing)
    release = mask_of(known.symbols.units, (unit for unit in known.symbols.units if unit.release == case["torch"]))
    in_torch = {name for name, mask in known.symbols.masks(theirs).items() if mask & release}
    return {name for name in theirs - in_torch if not any(name in one.exported for one in libraries(case["wheel"]))}


@cache
def libraries(name: str) -> tuple[Elf, ...]:
    return tuple(read_wheel.read(fetched(name)).libraries.values())


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine.words)
def test_what_was_seen(known: AuditTables, machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    known = known.for_machine(machine)
    cases, explained = table(suffixed("cases.toml", machine))["case"], table(suffixed("explained.toml", machine))
    counts: Counter[tuple[str, str, str]] = Counter()
    wrong, needed = [], set[int]()
    missing_there = {
        (case["wheel"], case["torch"], library)
        for case in cases
        for library in case.get("libraries", ())
        if case["seen"] == "breaks"
    }
    for case, finding, _ in judged(known, cases):
        found = finding.verdict.value
        lacked_rows = [row for row in explained["lacked"] if fnmatch(case["wheel"], row["wheel"])]
        counts["library" if "library" in case else "wheel", found, case["seen"]] += 1
        if expected(case, found, explained, needed) != found:
            wrong.append(f"{told(case)}: {found}, seen: {case['verdict']}")
        elif found == case["verdict"] == "BROKEN" and unseen(case, finding, known):
            wrong.append(f"{told(case)}: does not miss {sorted(unseen(case, finding, known))}")
        elif found == "ENV" and case["seen"] == "computes":
            lacked = {lib for name, torch, lib in missing_there if (name, torch) == (case["wheel"], case["torch"])}
            lacked |= {library for row in lacked_rows for library in row["libraries"]}
            if not lacked & set(finding.libraries):
                wrong.append(f"{told(case)}: ENV for {finding.libraries}, which was there")
    with capsys.disabled():
        print(f"\n\n{machine.words}, {len({case['wheel'] for case in cases})} wheels")
        print("| of | audit says | seen | pairs |\n|---|---|---|---|")
        for (of, found, seen), count in sorted(counts.items()):
            print(f"| {of} | {found} | {seen} | {count} |")
    assert wrong == []
    assert not counts["wheel", "OK", "breaks"] + counts["library", "OK", "breaks"]
    assert sorted(needed) == list(range(len(explained["differs"]))), "an explanation that explains nothing"
    computing = sum(count for (_, _, seen), count in counts.items() if seen == "computes")
    refused = sum(
        count for (_, found, seen), count in counts.items() if seen == "computes" and found in {"BROKEN", "UNKNOWN"}
    )
    assert refused <= 0.05 * computing
