"""What people read of the audit's findings, and what `--json` says of the same wheels."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.audit.test_audit import audit, made
from torch_build_farm.audit import output
from torch_build_farm.cli.main import main


@pytest.mark.parametrize("tag", ["py3-none-any", "cp312-cp312-linux_x86_64"])
def test_a_wheel_without_a_library_has_nothing_to_judge(tmp_path: Path, tag: str) -> None:
    """Its requirement is for its Python code to need, which the audit does not read."""
    report = audit(tmp_path, {"demo/x.py": b""}, "Requires-Dist: torch==2.8.*", tag=tag)
    assert (report.claim, report.ok) == ("nothing to judge", True)
    expected = "declared: torch==2.8.*; it has no compiled library: there is nothing to judge"
    assert output.lines(report) == [expected]
    row = output.markdown([report]).splitlines()[2]
    assert row.endswith("| - |"), "OK would be a judgement"


def test_nothing_to_judge_is_no_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = made(tmp_path, {"demo/x.py": b""}, "Requires-Dist: torch>=2.9", tag="py3-none-any")
    assert main(["audit", str(path), "--torch", "2.8"]) == 0
    assert "nothing to judge" in capsys.readouterr().out
