"""What the audit's stage hands to the audit: the project's settings, and the releases that a wheel has to serve."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tests.compiler import compiled
from tests.family import make_wheel
from tests.pipeline.test_stage_inputs import CODE, Project
from torch_build_farm.audit.tables import AuditTables
from torch_build_farm.core.errors import AbiError
from torch_build_farm.core.versions import Minor
from torch_build_farm.pipeline import records
from torch_build_farm.pipeline.facts import AuditFacts, BuildFacts
from torch_build_farm.pipeline.once import Once
from torch_build_farm.pipeline.records import Record
from torch_build_farm.pipeline.stage import Step
from torch_build_farm.pipeline.stages.audit import AUDIT
from torch_build_farm.project.variant import StableVariant, Variant

TABLES = AuditTables.load(Path("nothing"))
OF_ACME = 'external-libraries = { "libengine.so*" = "acme" }\n'


def audited(root: Path, lines: str, variant: Variant | None, needed: str, requires: Sequence[str]) -> list[str]:
    """What the stage says of a wheel whose one library needs another; `variant` is torch 2.11's if there is none."""
    run, job = Project(root, lines).run()
    run = replace(run, audit_tables=Once(lambda: TABLES))
    job = replace(job, variant=variant or job.variant)
    library = compiled(root, CODE, "-Wl,--no-as-needed", str(stub(root, needed)))
    fields = [f"Requires-Dist: {requirement}" for requirement in requires]
    wheel = make_wheel(run.work, "demo-torch211", "1", {"demo/core.so": library}, *fields)
    facts = BuildFacts("local", "", f"torch {job.variant.release}", None, None, ())
    before = {
        "build": Record("build", job.id, "", (), 0, "", details=facts),
        "relocate": Record("relocate", job.id, "", (records.artifact(wheel, run.work),), 0, ""),
    }
    said: list[str] = []
    outcome = AUDIT.work(Step(run, job, before, said.append))
    assert isinstance(outcome.facts, AuditFacts)
    return said


def stub(root: Path, name: str) -> Path:
    """A library of that name with nothing in it."""
    folder = root / "stub"
    folder.mkdir()
    path = folder / name
    path.write_bytes(compiled(folder, "", f"-Wl,-soname,{name}"))
    return path


def test_who_brings_an_external_library_is_what_the_settings_say(tmp_path: Path) -> None:
    requires = ("torch==2.11.*", "acme")
    said = audited(tmp_path, OF_ACME, None, "libengine.so.2", requires)
    assert said[1:] == ["needs libengine.so.2, which its requirement acme brings"]


def test_another_owner_of_an_external_library_is_audited_again(tmp_path: Path) -> None:
    """Also where the wheel that repair made of it is the same."""
    before = Project(tmp_path / "acme", OF_ACME).inputs()
    after = Project(tmp_path / "system", OF_ACME.replace('"acme"', '"system"')).inputs()
    assert [stage for stage in before if before[stage] != after[stage]] == ["repair", "audit"]


def test_a_wheel_of_the_stable_abi_serves_minors_that_no_file_describes_yet(tmp_path: Path) -> None:
    """CUDA 12's library comes with torch 2.10, the one minor that this farm has a file of, and not with the later ones."""
    run, _ = Project(tmp_path / "project").run()
    of_one_minor = StableVariant.of([run.project.variants[Minor(2, 10)]])
    with pytest.raises(AbiError, match=r"does not work with every release of torch>=2\.10: torch 2\.1[1-5]"):
        audited(tmp_path / "job", "", of_one_minor, "libcudart.so.12", ["torch>=2.10"])
