"""torch's wheel on an index that is not to be trusted: only the file with the SHA-256 on its page counts."""

from __future__ import annotations

import hashlib
import json
import lzma
import shutil
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from tests import small_torch
from tests.made_up import Front
from torch_build_farm.core.errors import PackageIndexError
from torch_build_farm.core.http_ranges import Limits
from torch_build_farm.core.package_index import PackageIndex
from torch_build_farm.core.store import STORE_VARIABLE, TorchStore
from torch_build_farm.core.versions import CPython
from torch_build_farm.releases import torch_wheel
from torch_build_farm.releases.listing import Listing
from torch_build_farm.releases.sdk import cache, exported_names
from torch_build_farm.releases.sdk.exported_names import LibraryExports
from torch_build_farm.releases.table_files import RECORDS_FILE, SHIPPED, added_folder

RELEASE, TAG = "2.99.0", "cp311"
FILE = small_torch.filename(RELEASE, TAG)
HEADER = "torch/include/ATen/ATen.h"
RECORD = f"torch-{RELEASE}.dist-info/RECORD"


@pytest.fixture
def true_wheel(tmp_path: Path) -> Path:
    (tmp_path / "true").mkdir()
    return small_torch.write(tmp_path / "true", RELEASE, TAG)


@pytest.fixture
def front(tmp_path: Path, true_wheel: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Front]:
    """An index whose page has the SHA-256 of the true wheel, whatever file is served."""
    monkeypatch.setenv(STORE_VARIABLE, str(tmp_path / "default-store"))
    stated = hashlib.sha256(true_wheel.read_bytes()).hexdigest()
    monkeypatch.setattr("tests.made_up.digest", lambda _: stated)
    (tmp_path / "served").mkdir()
    served = Front({FILE: Path(shutil.copy(true_wheel, tmp_path / "served"))}, real="(?!)")
    yield served
    served.close()


def remember(true_wheel: Path) -> None:
    """Let the farm know the true wheel's RECORD, as `index add` does."""
    with zipfile.ZipFile(true_wheel) as archive:
        record = archive.read(RECORD)
    text = torch_wheel.records_text(
        {hashlib.sha256(true_wheel.read_bytes()).hexdigest(): hashlib.sha256(record).hexdigest()}
    )
    (added_folder() / RELEASE).mkdir(parents=True)
    (added_folder() / RELEASE / RECORDS_FILE).write_text(text)


def members_of(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write(path: Path, members: Mapping[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def replaced(front: Front, content: bytes, *, record: bool) -> None:
    """Serve a wheel with other CMake code; with `record`, its RECORD agrees with it."""
    path = front.files[FILE]
    members = members_of(path) | {"torch/share/cmake/Torch/TorchConfig.cmake": content}
    if record:
        members[RECORD] = small_torch.record({name: text for name, text in members.items() if name != RECORD})
    write(path, members)


def with_record(front: Front, content: bytes | None) -> None:
    """Serve the wheel with another RECORD, or without one."""
    path = front.files[FILE]
    members = {name: text for name, text in members_of(path).items() if name != RECORD}
    write(path, members if content is None else {**members, RECORD: content})


def sdk(front: Front, folder: Path, say: Callable[[str], None] = lambda _: None) -> cache.Sdk:
    store = TorchStore.at(folder / "store", folder / "work")
    return cache.make(store, RELEASE, CPython.parse("3.11"), PackageIndex(front.url, limits=Limits(pauses=(0.0,))), say)


@pytest.mark.parametrize("record", [True, False])
@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("names_known", [True, False])
def test_another_file_than_the_index_means(
    front: Front,
    true_wheel: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    known: bool,
    names_known: bool,
    record: bool,
) -> None:
    """The page has the true SHA-256, and the file host another wheel, of which an SDK was made."""
    names: dict[str, LibraryExports] = dict(small_torch.LIBRARIES) if names_known else {}
    monkeypatch.setattr(exported_names, "from_tables", lambda *_: names)
    if known:
        remember(true_wheel)
    assert sdk(front, tmp_path).made_of == FILE
    replaced(front, b"execute_process(COMMAND touch /tmp/pwned)\n", record=record)
    with pytest.raises(PackageIndexError, match=r"is not the file whose SHA-256|is not what its RECORD lists"):
        sdk(front, tmp_path / "other")
    assert not list((tmp_path / "other" / "store").glob("sdk/*"))


def test_what_is_known_is_read_in_parts_and_what_is_not_is_announced(
    front: Front, true_wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exported_names, "from_tables", lambda *_: dict(small_torch.LIBRARIES))
    said: list[str] = []
    sdk(front, tmp_path, said.append)
    assert said[0].startswith(f"downloading all of {FILE} once")
    remember(true_wheel)
    said.clear()
    sdk(front, tmp_path, said.append)
    assert len(said) == 1
    assert "downloading" not in said[0]


@pytest.mark.parametrize("hashes", [{}, {"md5": "0" * 32}])
def test_an_index_without_sha256(
    front: Front, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hashes: dict[str, str]
) -> None:
    page = json.loads(front.page("torch"))
    page["files"][0]["hashes"] = hashes
    monkeypatch.setattr(front, "page", lambda _: json.dumps(page).encode())
    with pytest.raises(PackageIndexError, match="states no SHA-256"):
        sdk(front, tmp_path)
    index = PackageIndex(front.url)
    (file,) = Listing.read(index).release(RELEASE).wheels.values()
    with pytest.raises(PackageIndexError, match="states no SHA-256"), torch_wheel.looked_at(file, index):
        pass


def test_facts_of_a_known_wheel_are_compared(front: Front, true_wheel: Path) -> None:
    remember(true_wheel)
    index = PackageIndex(front.url)
    (file,) = Listing.read(index).release(RELEASE).wheels.values()
    with torch_wheel.looked_at(file, index) as wheel:
        assert wheel.read(HEADER) == small_torch.members(RELEASE)[HEADER]
    replaced(front, b"other", record=True)
    with pytest.raises(PackageIndexError, match="its RECORD is another"), torch_wheel.looked_at(file, index):
        pass


def test_a_member_that_record_does_not_list(front: Front, true_wheel: Path) -> None:
    remember(true_wheel)
    with zipfile.ZipFile(front.files[FILE], "a") as archive:
        archive.writestr("torch/include/ATen/more.h", "other")
    index = PackageIndex(front.url)
    (file,) = Listing.read(index).release(RELEASE).wheels.values()
    unlisted = pytest.raises(PackageIndexError, match="not what its RECORD lists")
    with torch_wheel.looked_at(file, index) as wheel, unlisted:
        wheel.read("torch/include/ATen/more.h")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "it has 0 RECORD files"),
        (b"a,b\n", "RECORD cannot be read"),
        (b"a,,\na,,1\n", "RECORD lists 'a' twice"),
        (b"torch/version.py,sha256=AA,1\n", "is not what its RECORD lists"),
    ],
)
def test_a_wheel_whose_record_is_none(
    front: Front, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None, said: str
) -> None:
    """The index means this very file, by its SHA-256; whoever looks at it learns what is wrong with it."""
    with_record(front, content)
    stated = hashlib.sha256(front.files[FILE].read_bytes()).hexdigest()
    monkeypatch.setattr("tests.made_up.digest", lambda _: stated)
    with pytest.raises(PackageIndexError, match=said):
        sdk(front, tmp_path)
    assert not list((tmp_path / "store").glob("sdk/*"))


def test_the_records_of_all_shipped_releases_are_shipped() -> None:
    data = lzma.decompress((SHIPPED / "kinds.xz").read_bytes())
    (size, _) = struct.unpack_from("<2I", data)
    wheels = json.loads(data[8 : 8 + size])["wheels"]
    records = json.loads((SHIPPED / RECORDS_FILE).read_text())
    for release, by_tag in wheels.items():
        for tag, sha256 in by_tag.items():
            assert len(records.get(sha256, "")) == 64, (release, tag)
    assert torch_wheel.known_record(next(iter(records))) == records[next(iter(records))]


def test_damaged_records_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(STORE_VARIABLE, str(tmp_path))
    for number, text in enumerate(("{", "[]", '{"aa": 1}', '{"aa": ["bb"]}', "[" * 100_000)):
        (added_folder() / str(number)).mkdir(parents=True)
        (added_folder() / str(number) / RECORDS_FILE).write_text(text)
    assert torch_wheel.known_record("aa") == ""
