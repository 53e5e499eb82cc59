"""What is read out of ninja's log."""

from pathlib import Path

import pytest

from torch_build_farm.engines import ninja_log

LOG = (
    "# ninja log v7\n"
    "9\t8214\t1763856000000000000\tCMakeFiles/momentum.dir/Unity/unity_0_cxx.cxx.o\t3f9e1c2d4b5a6978\n"
    "12\t17350\t1763856000004000000\tCMakeFiles/solver.dir/cpp/bind_solver.cpp.o\t93a1be5544c0de11\n"
    "17352\t17509\t1763856017343000000\tsolver.cpython-311-x86_64-linux-gnu.so\t52b1c9d8e7f60a34\n"
)


@pytest.mark.parametrize("version", [5, 6, 7])
def test_compile_seconds_reach_from_the_first_start_to_the_last_end(version: int) -> None:
    assert ninja_log.seconds(LOG.replace("v7", f"v{version}")) == 17.5


def test_an_output_that_was_made_twice_counts_with_its_last_command() -> None:
    again = "20000\t20100\t1763856020000000000\tCMakeFiles/momentum.dir/Unity/unity_0_cxx.cxx.o\t3f9e1c2d4b5a6978\n"
    assert ninja_log.seconds(LOG + again) == 20.088


def test_a_command_that_was_not_written_to_its_end_does_not_count() -> None:
    assert ninja_log.seconds(LOG + "20000\t99999\t17638") == 17.5


@pytest.mark.parametrize("text", ["", "# ninja log v7\n", LOG.replace("v7", "v4"), LOG.replace("v7", "v8"), "\0\x01"])
def test_no_log_or_one_of_another_format_tells_nothing(text: str) -> None:
    assert ninja_log.seconds(text) is None


def test_a_log_that_is_kept_becomes_a_detail(tmp_path: Path) -> None:
    build, out = tmp_path / "build", tmp_path / "out"
    build.mkdir()
    out.mkdir()
    ninja_log.keep(build, out)
    assert ninja_log.compile_seconds(out) is None  # no ninja, no log
    (build / ".ninja_log").write_text(LOG)
    ninja_log.keep(build, out)
    assert ninja_log.compile_seconds(out) == 17.5
