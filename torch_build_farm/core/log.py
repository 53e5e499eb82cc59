"""The format of a job's log."""

from __future__ import annotations

STAGE_MARK = "\n#### torch-build-farm: "  # what each stage's part of a job's log begins with
