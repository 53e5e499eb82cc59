"""Where a release goes, and how one file of it gets there."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from twine.utils import TEST_REPOSITORY

from tests.family import make_wheel
from tests.index import Index
from tests.raw_server import answering
from torch_build_farm.core.errors import PackageIndexError, PublishError, UploadRefusedError
from torch_build_farm.core.files import sha256
from torch_build_farm.core.package_index import PackageIndex
from torch_build_farm.core.process import Completed, Runner, Shell
from torch_build_farm.publish import upload
from torch_build_farm.publish.names import IndexNames
from torch_build_farm.publish.private_copies import PrivateCopy
from torch_build_farm.publish.publication import Item
from torch_build_farm.publish.published_list import PublishedList
from torch_build_farm.publish.upload import Target

BUSY = "HTTPError: 503 Service Unavailable from http://index.example/"


def test_the_two_well_known_ones() -> None:
    assert (Target.of("pypi").words, Target.of("pypi").index.url) == (("--repository", "pypi"), "")
    test = Target.of("testpypi")
    assert test.words == ("--repository", "testpypi")
    assert test.index.url == TEST_REPOSITORY.replace("/legacy/", "/simple/")


def test_a_url_and_its_secrets() -> None:
    target = Target.of("https://me:p%40ss@index.example/root/dev/")
    assert target.words == ("--repository-url", "https://index.example/root/dev/")
    assert dict(target.secrets) == {"TWINE_USERNAME": "me", "TWINE_PASSWORD": "p@ss"}
    assert target.name == "https://index.example/root/dev/"
    assert target.index.url == "https://me:p%40ss@index.example/root/dev/simple/"
    assert Target.of("https://index.example/legacy/").index.url == "https://index.example/simple/"
    assert Target.of("https://index.example/up", "https://index.example/+simple/").index.url == "https://index.example/+simple/"  # fmt: skip


@pytest.mark.parametrize("text", ["pipy", "ftp://index.example", "https://"])
def test_what_is_no_index(text: str) -> None:
    with pytest.raises(PublishError, match="is not a package index"):
        Target.of(text)


# ---- one file


class Twine(Runner):
    """Says one of these lines at each upload, the last one from then on; an empty one is a success, which `arrives`.

    Pauses take no time.
    """

    def __init__(self, *says: str, arrives: Callable[[], object] = lambda: None) -> None:
        super().__init__()
        self.says, self.arrives = says, arrives
        self.calls = 0
        self.pauses: list[float] = []

    def run(self, command: Sequence[str | os.PathLike[str]], **_: Any) -> Completed:
        said = self.says[min(self.calls, len(self.says) - 1)]
        self.calls += 1
        if not said:
            self.arrives()
        return Completed(tuple(os.fspath(word) for word in command), int(bool(said)), (said,))

    def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        assert len(self.pauses) < 100, "for ever"


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    return make_wheel(tmp_path / "made", "demo", "1.0", {"demo.py": ""})


def upload_one(wheel: Path, url: str, runner: Runner, env: Mapping[str, str] | None = None) -> None:
    """Upload a wheel to the index at `url`, which does not know its name; its log lies beside it."""
    digest, size = sha256(wheel), wheel.stat().st_size
    names = IndexNames(PackageIndex(url), PublishedList(), wheel.parent, {wheel.name: digest})
    target = Target(url, ("--repository-url", url), names.index)
    shell = Shell(runner, env or {}, wheel.parent, wheel.parent / "log", lambda _: None)
    item = Item(wheel, "demo", "1.0", digest, size, "new")
    upload.upload(item, PrivateCopy(wheel, wheel, digest, size), target, names, shell, known=False)


def test_an_index_that_is_busy_is_asked_again_ever_more_seldom(wheel: Path, index: Index) -> None:
    twine = Twine(BUSY, BUSY, "ReadTimeout: no answer", BUSY, BUSY, "", arrives=lambda: index.add_wheel(wheel))
    upload_one(wheel, index.url, twine)
    assert (twine.calls, twine.pauses) == (6, [1, 2, 4, 8, 16])


def test_an_index_that_stays_busy(wheel: Path, index: Index) -> None:
    twine = Twine(BUSY)
    with pytest.raises(PublishError, match="cannot be uploaded: HTTPError: 503") as raised:
        upload_one(wheel, index.url, twine)
    assert (twine.calls, twine.pauses) == (6, [1, 2, 4, 8, 16])
    assert "run the same command again" in raised.value.next_step


def test_what_another_try_does_not_mend(wheel: Path, index: Index) -> None:
    twine = Twine("ModuleNotFoundError: No module named 'requests'")
    with pytest.raises(PublishError, match="cannot be uploaded: ModuleNotFoundError"):
        upload_one(wheel, index.url, twine)
    assert (twine.calls, twine.pauses) == (1, [])


@pytest.mark.parametrize("answers", [2, 99])
def test_a_page_of_a_busy_index_is_asked_for_again(wheel: Path, answers: int) -> None:
    """It says whose the name is now: nothing is uploaded before it answers."""
    asked = 0

    def answer(_: str) -> list[bytes]:
        nonlocal asked
        asked += 1
        status = b"503 Busy" if asked <= answers else b"404 Not Found"
        return [b"HTTP/1.1 %s\r\nContent-Length: 0\r\nConnection: close\r\n\r\n" % status]

    twine = Twine("HTTPError: 400 Bad Request from http://index.example/")
    expected = UploadRefusedError if answers == 2 else PackageIndexError
    with answering(answer) as url, pytest.raises(expected):
        upload_one(wheel, url, twine)
    assert twine.pauses == ([1, 2] if answers == 2 else [1, 2, 4, 8, 16])
    assert twine.calls == (answers == 2)


def test_an_index_that_takes_a_file_and_never_lists_it(wheel: Path, index: Index) -> None:
    twine = Twine("")
    with pytest.raises(PublishError, match="was uploaded, but does not appear on the index"):
        upload_one(wheel, index.url, twine)
    assert twine.pauses[:7] == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10]
    assert 300 < sum(twine.pauses) < 320


def test_an_index_that_lists_other_bytes_than_it_was_given(wheel: Path, index: Index) -> None:
    twine = Twine("", arrives=lambda: index.add(wheel.name, b"other"))
    with pytest.raises(PublishError, match="that is not the uploaded file"):
        upload_one(wheel, index.url, twine)
    assert twine.pauses == []


# ---- with twine itself


@pytest.fixture
def no_credentials(tmp_path: Path) -> dict[str, str]:
    """The environment of somebody whose machine has no credentials, in files or keyrings."""
    return {"HOME": str(tmp_path), "PYTHON_KEYRING_BACKEND": "keyring.backends.null.Keyring", "PATH": os.defpath}


def test_nobody_is_asked_for_credentials(wheel: Path, index: Index, no_credentials: dict[str, str]) -> None:
    with pytest.raises(UploadRefusedError, match="no credentials, and no trusted publisher for this job"):
        upload_one(wheel, index.url, Runner(), no_credentials)


def test_a_log_without_progress_bars(wheel: Path, index: Index, no_credentials: dict[str, str]) -> None:
    env = {**no_credentials, "TWINE_USERNAME": "me", "TWINE_PASSWORD": "none"}
    with pytest.raises(UploadRefusedError, match="was refused"):
        upload_one(wheel, index.url, Runner(), env)
    log = (wheel.parent / "log").read_text()
    assert f"Uploading {wheel.name}" in log
    assert "100%" not in log


def test_a_description_that_an_index_would_refuse(tmp_path: Path) -> None:
    """Before the first file goes: the index would have half a release."""
    fields = ("Description-Content-Type: text/x-rst", "", "Title\n=\n\n`open")
    wheel = make_wheel(tmp_path, "demo", "1.0", {"demo.py": ""}, *fields)
    shell = Shell(Runner(), {"NO_COLOR": "1"}, tmp_path, tmp_path / "log", lambda _: None)
    with pytest.raises(PublishError, match=r"twine check refuses a file: .*FAILED.*syntax errors"):
        upload.check([wheel], shell)
    upload.check([make_wheel(tmp_path, "demo", "1.0", {"demo.py": ""})], shell)
