"""Names that others chose, joined to a folder of the farm."""

from pathlib import Path

import pytest

from torch_build_farm.core import paths
from torch_build_farm.core.errors import UnsafeNameError


@pytest.mark.parametrize("name", ["a", "a/b.cpp", "./a", "a//b", "ümläut", "a b", "..a/b..", "a\\b", "x" * 255])
def test_names_within_a_folder(tmp_path: Path, name: str) -> None:
    assert paths.inside(tmp_path, name) == tmp_path / name


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "is empty"),
        ("/etc/passwd", "is an absolute path"),
        ("..", "leads out"),
        ("a/../b", "leads out"),
        ("a/..", "leads out"),
        ("a\0b", "control character"),
        ("a\nbefore-build = 1", "control character"),
        ("a\x1b[2J", "control character"),
        ("a\x9b2J", "control character"),
        ("a\u2028b", "control character"),
        ("a\udcff", "not UTF-8"),
        ("x" * 256, "too long"),
        ("ü" * 128, "too long"),
        ("/".join(["xxxxxxxxxxxx"] * 90), "too long"),
        ("/".join("x" * 101), "too many folders"),
    ],
)
def test_names_that_are_refused(tmp_path: Path, name: str, reason: str) -> None:
    with pytest.raises(UnsafeNameError, match=reason) as caught:
        paths.inside(tmp_path, name)
    assert "\n" not in caught.value.what
    assert len(caught.value.what) < 200


def test_links_that_lead_out(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "real").mkdir(parents=True)
    (tmp_path / "secret").write_text("secret")
    (folder / "up").symlink_to("..")
    (folder / "within").symlink_to("real")
    (folder / "file").symlink_to(tmp_path / "secret")
    (folder / "nowhere").symlink_to(tmp_path / "new")
    (folder / "loop").symlink_to("loop")
    for name in ("up/new", "up", "file", "nowhere", "loop", "loop/new", "within/../up/new"):
        with pytest.raises(UnsafeNameError, match="leads out"):
            paths.inside(folder, name)
    assert paths.inside(folder, "within/new") == folder / "within" / "new"
    assert paths.inside(folder, "within") == folder / "within"


def test_the_folder_itself_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "work").symlink_to("disk")
    (tmp_path / "disk" / "a").write_text("")
    assert paths.inside(tmp_path / "work", "a") == tmp_path / "work" / "a"
    assert paths.inside(tmp_path / "gone", "a/b") == tmp_path / "gone" / "a" / "b"


def test_a_chain_of_links_longer_than_a_path_may_be(tmp_path: Path) -> None:
    """`realpath` stops where its result is too long, and takes what is left of the links for plain names."""
    folder = tmp_path / "folder"
    folder.mkdir()
    here = folder
    long = "d" * 247
    for step in "abcdefghijklmnop":
        (here / long).mkdir()
        (here / step).symlink_to(long)
        here = here / step
    chain = "/".join("abcdefghijklmnop")
    (folder / "link").symlink_to(f"{chain}/{'l' * 254}")
    (folder / chain / ("l" * 254)).symlink_to("/".join([".."] * 16))
    (folder / "escape").symlink_to(f"link/../{tmp_path.name}")
    assert (folder / "escape").resolve(strict=False).is_relative_to(folder), "this hole is what the test is about"
    with pytest.raises(UnsafeNameError, match="leads out"):
        paths.inside(folder, "escape/new")


@pytest.mark.parametrize("name", ["a/b", ".", "a/", "..", "/a", ""])
def test_plain_file_names(tmp_path: Path, name: str) -> None:
    assert paths.file_in(tmp_path, "demo-1.0.whl") == tmp_path / "demo-1.0.whl"
    with pytest.raises(UnsafeNameError):
        paths.file_in(tmp_path, name)
