"""Files of trees that others wrote are opened without waiting, and read up to a limit."""

import os
from pathlib import Path

import pytest

from torch_build_farm.core import foreign_files


def test_a_file_up_to_its_limit(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    (tmp_path / "link").symlink_to("a")
    assert foreign_files.content(tmp_path / "link", 5) == b"12345"
    with pytest.raises(OSError, match="larger than 4 bytes"):
        foreign_files.content(tmp_path / "a", 4)


@pytest.mark.parametrize("name", ["pipe", "folder", "zeros", "missing", "a\0b", "\ud800"])
def test_what_is_no_file(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "zeros").symlink_to("/dev/zero")
    path = tmp_path / name
    with pytest.raises(OSError, match=r"not a regular file|directory|No such|null|surrogate"):
        foreign_files.content(path, 1 << 20)
    assert not foreign_files.is_regular(path)
