"""What a build's log tells of its environment."""

import json
from pathlib import Path

from torch_build_farm.core.log import STAGE_MARK
from torch_build_farm.pipeline import installed_packages, records

UV = """Using Python 3.11.7 environment at: env
Resolved 3 packages in 9ms
{mark} + numpy==2.4.0
{mark} + setuptools==80.9.0
{mark} + torch==2.9.0+cu128 (from https://example.org/torch.whl)
"""


def test_a_build_that_prints_such_lines_makes_no_record_that_is_too_large() -> None:
    log = "".join(f" + {number:0200}=={number:0200}\n" for number in range(10_000))
    assert len(json.dumps(installed_packages.installed(log))) < records.MOST_BYTES / 2


def test_last_installed_counts_by_either_engine(tmp_path: Path) -> None:
    for mark in ("", "< ", "\x1b[2m< "):
        log = tmp_path / "log"
        log.write_text(
            f"{STAGE_MARK}build demo then\n + old==1.0\n{STAGE_MARK}build demo now\n"
            + UV.format(mark=mark)
            + f"{mark} - numpy==2.4.0\n{mark} + numpy==2.3.9\n{mark} - setuptools==80.9.0\n"
            + f"-- sum + rest==1\n\x1b[2m<  + end==3\x1b[0m\n{STAGE_MARK}repair demo now\n"
        )
        environment = (("end", "3"), ("numpy", "2.3.9"), ("torch", "2.9.0+cu128"))
        assert installed_packages.of_last_build(log) == environment
