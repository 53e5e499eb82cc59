"""Markdown of the farm's: nothing of a stranger's is markup in it, whichever way it comes in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from tests.audit.test_audit import MINE, TORCH, audit
from tests.conftest import CHECKOUT
from tests.elves import library
from tests.family import family, project, variant
from tests.pipeline.test_smoke import JOB
from torch_build_farm.audit import output
from torch_build_farm.audit.changes import Changes
from torch_build_farm.cli import evidence
from torch_build_farm.core.errors import BuildError
from torch_build_farm.core.machine import X86_64
from torch_build_farm.core.versions import Minor
from torch_build_farm.pipeline.facts import AuditFacts, SmokeFacts
from torch_build_farm.pipeline.records import Artifact, Record
from torch_build_farm.pipeline.results import JobResult, StageResult
from torch_build_farm.publish.inventory import VariantFile, compatibility, with_metadata
from torch_build_farm.releases.facts import Fact, Facts
from torch_build_farm.releases.variant_file import Edit

EVIL = "x | y `z` ![i](http://a) [l](//b) <img src=c> @maintainer #1\n\n# head\n::error::w\x1b[2J\u202e ```\n"


def harmless(text: str) -> None:
    """Outside code nothing is left of what `EVIL` would be, and no line is one of its lines."""
    inside = ""
    for line in text.splitlines():
        fence = re.match("(`{3,})", line)
        if fence and inside in ("", fence[1]):
            inside = "" if inside else fence[1]
            continue
        assert not re.search(r"[\x00-\x1f\x7f-\x9f\u202e]", line), ascii(line)
        if inside:
            continue
        unescaped = re.sub(r"\\[^\w\s]", ".", line)  # what a backslash stands before is itself
        plain = re.sub(r"`[^`]*`", "", unescaped)
        for active in ("![", "](", "<img", "@maintainer", "`", "://"):
            assert active not in plain, line
        assert not line.startswith(("# head", "::error"))
    assert not inside, text


def test_what_harmless_sees() -> None:
    with pytest.raises(AssertionError):
        harmless(EVIL)


def result(*facts: AuditFacts | SmokeFacts, error: str = "", wheel: str = "") -> JobResult:
    stages = tuple(StageResult(Record("smoke", JOB.id, "", (), 2.0, "", details=one), kept=False) for one in facts)
    artifact = Artifact(f"dist/{wheel}", "ab" * 32, 1) if wheel else None
    return JobResult(JOB, stages, artifact, BuildError(error) if error else None, "log")


def test_evidence_of_a_build() -> None:
    smoke = SmokeFacts(EVIL, EVIL, (EVIL,), (EVIL, "demo"), EVIL, EVIL)
    findings = AuditFacts("2.9", {"2.8.0": EVIL, "2.9.0": "OK"}, (EVIL,))
    text = evidence.of_build(
        [result(smoke, wheel=f"{EVIL}-1.0-py3-none-any.whl"), result(findings), result(error=EVIL)]
    )
    harmless(text)
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert len(tables) >= 6
    for line in tables:
        columns = len(re.findall(r"(?<!\\)\|", line))
        assert columns in (7, 4), line  # of the wheels, and of the audit


def test_evidence_of_a_variant() -> None:
    facts = Facts(Minor(2, 9), X86_64, EVIL, {"cuda": Fact(EVIL, EVIL), "cpython": Fact(("cp311",), EVIL)})
    edit = Edit(Path("variants/torch29.toml"), f"a = 1\n```\n{EVIL}", f"a = 2\n```\n{EVIL}", (EVIL,))
    changes = Changes("2.8.0", "2.9.0", {EVIL: (EVIL,)}, {EVIL: EVIL}, {})
    harmless(evidence.of_variant(facts, edit, changes, None))
    harmless(changes.markdown())


def test_the_audits_markdown(tmp_path: Path) -> None:
    core = library(["_ZN3c10evilEv", EVIL.replace("\u202e", "")], [], [*TORCH, "lib|`<img src=c>@maintainer.so"])
    report = audit(tmp_path, {MINE: core, "demo/|`<img src=c>.so": core}, "Requires-Dist: torch>=2.8")
    text = output.markdown([replace(report, file=EVIL), report])
    harmless(text)
    assert "maintainer" in text


def test_compatibility_names_the_index_of_a_flavour(tmp_path: Path) -> None:
    own = project()
    facts = replace(
        own.torch_minors[Minor(2, 9)], torch=Minor(2, 9, "cu126"), cuda="12.6", index="https://x.example/cu126"
    )
    own = replace(own, flavours={facts.torch: facts})
    wheel = variant(tmp_path, own, "2.9:cu126", "1.0", {"demo/__init__.py": ""})
    text = compatibility(family(own, wheel, {"2.9": "1.0", "2.9:cu126": "1.0"}), [])
    assert '`pip install "demo[torch29-cu126]" --extra-index-url https://x.example/cu126` |' in text
    assert '`pip install "demo[torch29]"` |' in text


def test_compatibility(tmp_path: Path) -> None:
    own = project()
    wheel = variant(tmp_path, own, "2.9", "1.0", {"demo/__init__.py": ""})
    file = VariantFile(Minor(2, 9), "1.0", "demo", "|<img src=c>@maintainer", "")
    text = compatibility(family(own, wheel, {"2.9": "1.0"}), [file, replace(file, python="cp\u00b29")])
    harmless(text)
    rows = [line for line in text.splitlines() if line.startswith("| 2.9")]
    assert [len(re.findall(r"(?<!\\)\|", row)) for row in rows] == [8]
    files = [replace(file, python=tag) for tag in ("py3", "cp311", "cp39", "cp310", "cp39")]
    older = replace(file, version="0.9", python="cp38")
    assert "| 3.9, 3.10, 3.11, py3 |" in compatibility(family(own, wheel, {"2.9": "1.0"}), [*files, older])
    named = [replace(file, name="demo-1.0-cp39-abi3-linux_x86_64.whl", python="cp39"), replace(file, python="cp312")]
    assert "| 3.9 and later, 3.12 |" in compatibility(family(own, wheel, {"2.9": "1.0"}), named)


@pytest.mark.parametrize(
    ("needed", "words"), [("libtorch_cpu.so", "works"), ("libc10_cuda.so", "no"), ("libcudart.so.12", "no")]
)
def test_compatibility_says_what_works_with_a_cpu_torch(tmp_path: Path, needed: str, words: str) -> None:
    own = project()
    wheel = variant(tmp_path, own, "2.9", "1.0", {"demo/__init__.py": "", "demo/_core.so": library(needed=[needed])})
    file = VariantFile(Minor(2, 9), "1.0", wheel.name, "cp311", "")
    table = compatibility(family(own, wheel, {"2.9": "1.0"}), [with_metadata(file, wheel)])
    assert f"| {words} | `pip" in table
    unread = compatibility(family(own, wheel, {"2.9": "1.0"}), [file])
    assert "| - | `pip" in unread


def test_compatibility_names_the_cpu_that_users_need(tmp_path: Path) -> None:
    own = project()
    wheel = variant(tmp_path, own, "2.9", "1.0", {"demo/__init__.py": ""})
    assert "a CPU of level" not in compatibility(family(own, wheel, {"2.9": "1.0"}), [])
    fast = replace(own, settings=replace(own.settings, cpu_baseline="x86-64-v3"))
    assert "needs a CPU of level x86-64-v3" in compatibility(family(fast, wheel, {"2.9": "1.0"}), [])


def test_compatibility_of_a_project_half_way_to_the_stable_abi(tmp_path: Path) -> None:
    """Users look up their torch: each minor has a line, also those that one wheel serves."""
    own = project(stable_abi="2.13")
    wheel = variant(tmp_path, own, "2.13", "1.0", {"demo/__init__.py": ""})
    files = [
        VariantFile(Minor(2, 9), "1.0", "demo_torch29-1.0-cp311-cp311-any.whl", "cp311", ""),
        VariantFile(Minor(2, 13), "1.0", "demo_torch_stable-1.0-cp310-abi3-any.whl", "cp310", "", needs_cuda=False),
    ]
    text = compatibility(family(own, wheel, {"2.9": "1.0", "2.13": "1.0"}), files)
    rows = [line for line in text.splitlines() if line.startswith("| 2")]
    assert rows == [
        '| 2.15 and later | demo-torch-stable | 1.0 | 3.10 and later | 13.2 | works | `pip install "demo[torch215]"` |',
        '| 2.14 | demo-torch-stable | 1.0 | 3.10 and later | 13.0 | works | `pip install "demo[torch214]"` |',
        '| 2.13 | demo-torch-stable | 1.0 | 3.10 and later | 13.0 | works | `pip install "demo[torch213]"` |',
        '| 2.9 | demo-torch29 | 1.0 | 3.11 | 12.8 | - | `pip install "demo[torch29]"` |',
    ]


def test_markdown_has_no_other_way_out() -> None:
    """Templates of Markdown are rendered by the environment that escapes."""
    renderers: Mapping[str, str] = {
        path.name: path.read_text()
        for path in (CHECKOUT / "torch_build_farm").rglob("*.py")
        if ".md.j2" in path.read_text()
    }
    assert list(renderers) == ["evidence.py"]
    assert "strict_environment" not in renderers["evidence.py"]
