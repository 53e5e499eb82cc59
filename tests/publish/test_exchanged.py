"""Wheels and answers that change between the plan and the upload, and files that are not what an index says they are."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.conftest import Answer
from tests.index import Index
from tests.release import Release, with_members
from torch_build_farm.core.errors import DiskError, PublishError, UploadRefusedError
from torch_build_farm.core.files import sha256
from torch_build_farm.core.package_index import PackageIndex
from torch_build_farm.core.versions import Minor
from torch_build_farm.publish import install_check, private_copies, published_list, upload
from torch_build_farm.publish.private_copies import private_folder

Call = Callable[..., Answer]
CODE = {"demo/__init__.py": "print('exchanged')\n"}


def publish(call: Call, index: Index) -> Answer:
    """`publish --yes`, to an index that takes no uploads: an attempt would end in another error."""
    return call("publish", index.url, "--index-url", index.url, "--yes", "--no-check")


def after_the_plan(index: Index, action: Callable[[], object]) -> None:
    """Do something when the plan asks for the last name, the one that users install."""

    def before(path: str) -> None:
        if path.strip("/") == "demo":
            action()

    index.before = before


@pytest.mark.parametrize("place", ["work/dist", "work/publishing"])
@pytest.mark.parametrize("wheel", ["demo_torch28", "demo_select"])
def test_a_wheel_that_is_exchanged_after_the_plan(
    release: Release, call: Call, index: Index, place: str, wheel: str
) -> None:
    release.proven(release.variant("2.8"))

    def exchange() -> None:
        (path,) = (release.folder / place).glob(f"{wheel}-*")
        with_members(path, CODE)

    after_the_plan(index, exchange)
    answer = publish(call, index)
    assert answer.code == 24, answer.err
    assert "was exchanged after it had been checked" in answer.err
    assert place in answer.err
    assert " upload " not in (release.folder / "work" / "logs" / "publish.log").read_text()


def test_the_private_copy_is_what_is_uploaded(release: Release, call: Call, index: Index) -> None:
    """And nobody else may open it."""
    release.proven(release.variant("2.8"))
    modes: list[int] = []

    def look() -> None:
        folder = release.folder / "work" / "publishing"
        modes.extend(path.stat().st_mode & 0o777 for path in (folder, folder / "demo_torch28-1.0-py3-none-any.whl"))

    after_the_plan(index, look)
    publish(call, index)
    assert modes == [0o700, 0o600]
    log = (release.folder / "work" / "logs" / "publish.log").read_text()
    (line,) = [line for line in log.splitlines() if line.startswith("$ ") and " upload " in line]
    assert line.endswith("work/publishing/demo_torch28-1.0-py3-none-any.whl")
    assert not (release.folder / "work" / "publishing").exists()


def test_credentials_are_for_uploads_alone(
    release: Release, call: Call, index: Index, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`twine check` renders descriptions of the wheels' own."""
    release.proven(release.variant("2.8"))
    twine = tmp_path / "python"
    twine.write_text('#!/bin/sh\necho "$4"\n/usr/bin/env\n[ "$4" = check ] || { echo "HTTPError: 400 no"; exit 1; }\n')
    twine.chmod(0o755)
    monkeypatch.setattr(upload, "sys", SimpleNamespace(executable=str(twine)))
    assert publish(call, index).code == UploadRefusedError.exit_code
    checked, _, uploaded = (release.folder / "work" / "logs" / "publish.log").read_text().partition("\nupload\n")
    assert "\ncheck\n" in checked
    assert "TWINE_PASSWORD" not in checked
    assert "TWINE_PASSWORD=none" in uploaded


def test_a_name_that_is_taken_after_the_plan(release: Release, call: Call, index: Index, tmp_path: Path) -> None:
    wheel = release.proven(release.variant("2.8"))
    foreign = tmp_path / "demo_torch28-0.9-py3-none-any.whl"
    foreign.write_bytes(wheel.read_bytes())
    after_the_plan(index, lambda: index.add_wheel(foreign))
    answer = publish(call, index)
    assert answer.code == 24, answer.err
    assert "demo-torch28 has files on the index that this project has not published" in answer.err
    assert " upload " not in (release.folder / "work" / "logs" / "publish.log").read_text()


def test_older_versions_are_not_copied(release: Release, call: Call, index: Index) -> None:
    """work/dist keeps them, and may have many gigabytes. The last one of a minor that is not built any more is copied."""
    for minor, version in (("2.9", "0.8"), ("2.9", "0.9"), ("2.8", "0.9"), ("2.8", "1.0")):
        index.add_wheel(release.proven(release.variant(minor, version)))
    copied: list[str] = []
    after_the_plan(
        index, lambda: copied.extend(path.name for path in (release.folder / "work" / "publishing").iterdir())
    )
    answer = call("publish", index.url, "--index-url", index.url)
    assert answer.code == 0, answer.err
    assert [name for name in sorted(copied) if "torch" in name] == [
        "demo_torch28-1.0-py3-none-any.whl",
        "demo_torch29-0.9-py3-none-any.whl",
    ]
    assert "demo_select-1.0.0.0.0.209" in answer.out, "and the others are proven by their records all the same"


def test_a_disk_that_is_full(release: Release, call: Call, index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was said that the wheel cannot be read."""
    release.proven(release.variant("2.8"))

    def full(descriptor: int, content: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(private_copies, "_write", full)
    answer = publish(call, index)
    assert answer.code == DiskError.exit_code, answer.err
    assert "the disk is full" in answer.err


def taking_uploads(index: Index, folder: Path, monkeypatch: pytest.MonkeyPatch, then: Callable[[str], object]) -> None:
    """Have an index take uploads, of a stand-in for twine; each is given to `then` by its name before it is listed."""
    incoming = folder / "incoming"
    incoming.mkdir()
    twine = folder / "python"
    twine.write_text(f'#!/bin/sh\n[ "$4" = check ] && exit\nfor file; do :; done\n/bin/cp "$file" {incoming}/\n')
    twine.chmod(0o755)
    monkeypatch.setattr(upload, "sys", SimpleNamespace(executable=str(twine)))

    def before(_: str) -> None:
        for path in incoming.iterdir():
            then(path.name)
            index.add_wheel(path)
            path.unlink()

    index.before = before


@pytest.mark.parametrize("what", ["wheel", "copy", "name"])
def test_what_changes_between_two_uploads(
    release: Release, call: Call, index: Index, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, what: str
) -> None:
    """Everything is compared again before each upload; what went before is on the list, and another call goes on."""
    first, second = (release.proven(release.variant(minor)) for minor in ("2.8", "2.9"))
    kept = second.read_bytes()
    foreign = tmp_path / "demo_torch29-0.9-py3-none-any.whl"
    foreign.write_bytes(kept)

    def change(uploaded: str) -> None:
        if uploaded == first.name and what == "name":
            index.add_wheel(foreign)
        elif uploaded == first.name:
            with_members(second if what == "wheel" else release.folder / "work" / "publishing" / second.name, CODE)

    taking_uploads(index, tmp_path, monkeypatch, change)
    answer = publish(call, index)
    assert answer.code == 24, answer.err
    said = "has files on the index that this project has not published" if what == "name" else "was exchanged after"
    assert said in answer.err
    assert not (index.folder / "demo-torch29" / second.name).exists()
    assert {entry.file for entry in published_list.read(release.project.root).files} == {first.name}

    second.write_bytes(kept)
    if what == "name":
        (index.folder / "demo-torch29" / foreign.name).unlink()
        index.yank(second.name)  # writes its page anew
    answer = publish(call, index)
    assert answer.code == 0, answer.err
    assert len(published_list.read(release.project.root).files) == 6
    reminder = f"{release.project.root / 'published.json'} lists what was published: commit it"
    assert reminder in answer.out
    assert reminder not in publish(call, index).out, "nothing is new"


def test_a_link_in_place_of_a_wheel(release: Release, call: Call, index: Index, tmp_path: Path) -> None:
    wheel = release.proven(release.variant("2.8"))
    wheel.rename(tmp_path / wheel.name)
    wheel.symlink_to(tmp_path / wheel.name)
    answer = publish(call, index)
    assert answer.code == 24
    assert "cannot be read" in answer.err


def test_a_folder_of_somebody_elses_for_the_copies(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "file").touch()
    (tmp_path / "publishing").symlink_to(tmp_path / "elsewhere")
    with private_folder(tmp_path) as folder:
        assert not folder.path.is_symlink()
    assert (tmp_path / "elsewhere" / "file").exists(), "not removed through the link"
    (tmp_path / "publishing").touch()
    with pytest.raises(PublishError, match="cannot be made"), private_folder(tmp_path):
        pass


def test_a_file_system_that_keeps_no_permissions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make = Path.mkdir
    monkeypatch.setattr(Path, "mkdir", lambda self, **_: make(self, 0o755))
    with pytest.raises(PublishError, match="somebody else owns it or may enter it"), private_folder(tmp_path):
        pass


def test_a_file_system_that_gives_folders_to_somebody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As NFS does with what root makes."""
    monkeypatch.setattr(os, "geteuid", lambda: tmp_path.stat().st_uid + 1)
    with pytest.raises(PublishError, match="somebody else owns it or may enter it"), private_folder(tmp_path):
        pass


def test_a_copy_leaves_no_file_open(tmp_path: Path) -> None:
    """A release of many wheels would have more than a process may."""
    (tmp_path / "demo.whl").write_bytes(b"wheel")
    with private_folder(tmp_path) as folder:
        before = len(list(Path("/proc/self/fd").iterdir()))
        folder.copy(tmp_path / "demo.whl")
        assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_download_that_is_not_what_the_page_says(release: Release, call: Call, index: Index) -> None:
    """Without a SHA-256 on the page the file is fetched: it must have the digest that the page does state."""
    wheel = release.proven(release.variant("2.8"))
    index.stated[wheel.name] = f"md5={'0' * 32}"
    index.add_wheel(wheel)
    answer = publish(call, index)
    assert answer.code == 10, answer.err
    assert "cannot be fetched" in answer.err


def listed_plain_wheel(release: Release, call: Call, index: Index) -> Path:
    """The plain wheel of an earlier run, which the list of published files has."""
    release.proven(release.variant("2.8"))
    call("meta", "--offline")
    earlier = with_members(release.dist / "demo-1.0-py3-none-any.whl", {"demo/earlier.py": "of an earlier run\n"})
    release.list(index, earlier)
    return earlier


def test_the_plain_wheel_is_served_with_other_code_than_listed(release: Release, call: Call, index: Index) -> None:
    """The page states the SHA-256 in the list, and the file is another."""
    earlier = listed_plain_wheel(release, call, index)
    index.stated[earlier.name] = f"sha256={sha256(earlier)}"
    index.add_wheel(with_members(earlier, CODE))
    answer = publish(call, index)
    assert answer.code == 10, answer.err
    assert f"{earlier.name} cannot be fetched" in answer.err


def test_the_plain_wheel_is_another_when_it_is_fetched_again(release: Release, call: Call, index: Index) -> None:
    """The page states no digest: the file was fetched, and was the one in the list."""
    earlier = listed_plain_wheel(release, call, index)
    index.digests = False
    index.add_wheel(earlier)
    fetched: list[str] = []

    def exchange(path: str) -> None:
        if path.endswith(earlier.name):
            fetched.append(path)
        if len(fetched) == 2:
            with_members(index.folder / "demo" / earlier.name, CODE)

    index.before = exchange
    answer = publish(call, index)
    assert answer.code == 10, answer.err
    assert f"the index served another {earlier.name} than it lists" in answer.err


# ---- what users get


def check(call: Call, index: Index) -> Answer:
    return call("check", index.url, "--index-url", index.url)


def test_the_index_serves_another_file_than_was_published(release: Release, call: Call, index: Index) -> None:
    variant, *_ = release.published(index, release.variant("2.8"))
    index.add_wheel(with_members(variant, CODE))
    answer = check(call, index)
    assert answer.code == 24, answer.err
    assert f"{variant.name} has the SHA-256 {sha256(variant)}, not " in answer.err


def test_the_index_serves_a_further_file(release: Release, call: Call, index: Index) -> None:
    """With a build number installers prefer it, though the published file is there too."""
    variant, *_ = release.published(index, release.variant("2.8"))
    content = with_members(variant, CODE).read_bytes()
    index.add("demo_torch28-1.0-9-py3-none-any.whl", content, "demo-torch28")
    answer = check(call, index)
    assert answer.code == 24, answer.err
    assert "demo_torch28-1.0-9-py3-none-any.whl was not published by this project" in answer.err


@pytest.mark.parametrize("stated", [True, False])
def test_a_file_that_is_not_what_its_page_says(release: Release, call: Call, index: Index, stated: bool) -> None:
    """Or whose page says nothing: uv compares what it downloads, and does not take what an earlier check has downloaded."""
    index.digests = stated
    variant, *_ = release.published(index, release.variant("2.8"))
    answer = check(call, index)
    assert answer.code == 0, answer.err
    if stated:
        index.stated[variant.name] = f"sha256={sha256(variant)}"
    index.add_wheel(with_members(variant, CODE))
    answer = check(call, index)
    assert answer.code == 24, answer.err
    assert "demo[torch28]==1.0 does not install" in answer.err


LOCK = """
[[package]]
name = "{name}"
version = "1.0"
source = {{ registry = "{registry}" }}
wheels = [{{ url = "https://files.example/{file}", hash = "{digest}" }}]
"""


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, ""),
        ({"registry": "https://other.example/simple"}, "demo-torch28 comes from {'registry': 'https://other.example/simple'}"),
        ({"digest": f"sha256:{'b' * 64}"}, f"has the SHA-256 {'b' * 64}, not {'a' * 64}"),
        ({"digest": f"md5:{'a' * 64}"}, ""),  # uv gets the SHA-256 to compare the file with
        ({"digest": ""}, ""),
        ({"file": "demo_torch28-1.0-2-py3-none-any.whl"}, "demo_torch28-1.0-2-py3-none-any.whl was not published"),
    ],
)  # fmt: skip
def test_what_a_lock_file_may_have(release: Release, tmp_path: Path, changed: dict[str, str], said: str) -> None:
    """Each of the farm's names from the index alone, with the published file's SHA-256."""
    names = ["demo", "demo-auto", "demo-select", "demo-torch28"]
    files = {name: f"{name.replace('-', '_')}-1.0-py3-none-any.whl" for name in names}
    text = ""
    for name in names:
        fields = {"registry": "https://index.example/simple", "file": files[name], "digest": f"sha256:{'a' * 64}"}
        text += LOCK.format(name=name, **{**fields, **(changed if name == "demo-torch28" else {})})
    (tmp_path / "uv.lock").write_text(text)
    project = release.project
    expected = dict.fromkeys(files.values(), "a" * 64)
    checked = install_check.Release(project, "1.0", PackageIndex("https://index.example/simple/"), expected)
    problems = install_check._foreign(tmp_path / "uv.lock", checked, project.variants[Minor.parse("2.8")])
    assert bool(problems) == bool(said)
    assert said in "; ".join(problems)
    if not said:
        install_check._write_missing_digests(tmp_path / "uv.lock", checked, project.variants[Minor.parse("2.8")])
        assert (tmp_path / "uv.lock").read_text().count(f'"sha256:{"a" * 64}"') == len(names)
