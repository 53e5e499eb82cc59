"""Wheels that are read where they are: members, faults of servers, and what libraries export."""

from __future__ import annotations

import hashlib
import operator
import random
import sysconfig
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from io import BytesIO
from itertools import compress
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection
from pypi_simple import DistributionPackage
from requests import Session

from tests.conftest import need
from tests.range_server import Served, serving
from tests.torch_like import Library, deflated, names, zipped
from torch_build_farm.core.answers import Bounds
from torch_build_farm.core.answers import session as session_with
from torch_build_farm.core.errors import PackageIndexError
from torch_build_farm.core.http_ranges import FileRanges, Limits, Ranges
from torch_build_farm.core.package_index import PackageIndex
from torch_build_farm.core.remote_wheel import RemoteWheel
from torch_build_farm.wheels.elf import remote_exports
from torch_build_farm.wheels.elf.deflate import resync
from torch_build_farm.wheels.elf.gnu_hash import gnu_hash, sysv_hash
from torch_build_farm.wheels.elf.partial import Exported
from torch_build_farm.wheels.elf.remote_exports import exported, torch_libraries

LIBRARY = "torch/lib/libmade.so"
TEXT = b"".join(b"line %d of many\n" % number for number in range(20000))
STORED, DEFLATED = 0, 8


NO_PAUSES = Limits(pauses=(0.0, 0.0, 0.0))
IMPATIENT = replace(NO_PAUSES, read_seconds=0.3)
SMALLER = remote_exports.Limits(whole=1 << 16, near=1 << 16)  # torch's libraries are larger than those here


@contextmanager
def remote(
    members: dict[str, tuple[bytes, int, bytes]], extra: bytes = b"", limits: Limits = NO_PAUSES
) -> Iterator[tuple[Served, RemoteWheel]]:
    with serving(zipped(members, extra)) as served, Session() as session:
        yield served, RemoteWheel(session, served.url, limits=limits)


def packed(content: bytes) -> tuple[bytes, int, bytes]:
    return content, DEFLATED, deflated(content)


def the_file(served: Served) -> DistributionPackage:
    """What is served, as an index lists it."""
    sha256 = hashlib.sha256(served.content).hexdigest()
    return DistributionPackage(
        "demo-1.0-py3-none-any.whl", served.url, None, None, None, {"sha256": sha256}, None, None
    )


@pytest.fixture(scope="module")
def large() -> tuple[Library, bytes]:
    """A library of which the ends are small, and .dynamic far from both."""
    library = Library(names(3000), text=3_000_000, linker=60_000)
    return library, library.content()


class TestWheel:
    def test_members_and_their_content(self) -> None:
        with remote({"a.txt": packed(TEXT), "b": (b"stored", STORED, b"stored"), "empty": (b"", STORED, b"")}) as (
            served,
            wheel,
        ):
            assert {path: (member.file_size, member.CRC) for path, member in wheel.members.items()} == {
                "a.txt": (len(TEXT), zlib.crc32(TEXT)), "b": (6, zlib.crc32(b"stored")), "empty": (0, 0)
            }  # fmt: skip
            assert wheel.requests == 1
            assert [wheel.read(path) for path in ("a.txt", "b", "empty")] == [TEXT, b"stored", b""]
            assert b"".join(wheel.chunks("a.txt")) == TEXT
            assert b"".join(wheel.chunks("empty")) == b""
            assert wheel.raw("a.txt", 10, 90) == deflated(TEXT)[10:90]
            assert wheel.fetched >= len(served.content)
            with pytest.raises(PackageIndexError, match="has no c"):
                wheel.read("c")

    @pytest.mark.parametrize("extra", [b"", bytes(40), bytes(5000)])
    def test_a_local_header_may_be_longer_than_the_central_one(self, extra: bytes) -> None:
        with remote({"x": packed(TEXT), "y": packed(TEXT[::-1])}, extra) as (_, wheel):
            assert wheel.raw("y", 0, 50) == deflated(TEXT[::-1])[:50]
            assert wheel.raw("x", 1 << 18, 1 << 19) == deflated(TEXT)[1 << 18 :]
            assert wheel.read("x") == TEXT

    def test_neighbours_come_in_one_request(self) -> None:
        members = {f"torch/include/{number}.h": packed(b"%d" % number * 99) for number in range(300)}
        noise = random.Random(1).randbytes(1000)
        with remote({**members, "noise": (noise, STORED, noise), "last.h": packed(TEXT)}, limits=Limits(gap=100)) as (
            _,
            wheel,
        ):
            before = wheel.requests
            found = wheel.read_many([*members, "last.h"])
            assert found == {path: content for path, (content, _, _) in members.items()} | {"last.h": TEXT}
            assert wheel.requests - before == 2

    def test_a_damaged_member_is_refused(self) -> None:
        with remote({"a": packed(TEXT), "b": (TEXT, STORED, TEXT)}) as (served, wheel):
            for place in (len(deflated(TEXT)) // 2, len(deflated(TEXT)) + 5000):
                damaged = bytearray(served.content)
                damaged[place] ^= 4
                served.content, whole = bytes(damaged), served.content
                path = "a" if place < len(deflated(TEXT)) else "b"
                for read in (wheel.read, lambda path: list(wheel.chunks(path)), lambda path: wheel.read_many([path])):
                    with pytest.raises(PackageIndexError, match="damaged"):
                        read(path)
                served.content = whole

    @pytest.mark.parametrize(
        ("content", "method", "data", "reason"),
        [
            (b"abc", STORED, b"abd", "damaged"),
            (b"abc", STORED, b"ab", "damaged"),
            (bytes(1 << 24), DEFLATED, deflated(b"\1" + bytes(1 << 25)), "damaged"),
            (TEXT, DEFLATED, deflated(TEXT)[:-9], "damaged"),
            (TEXT, DEFLATED, deflated(TEXT[:-9]), "damaged"),
        ],
        ids=["changed", "too short", "too long", "a stream that is cut", "a stream of less"],
    )
    def test_members_that_are_not_what_the_directory_says(
        self, content: bytes, method: int, data: bytes, reason: str
    ) -> None:
        with remote({"a": (content, method, data)}) as (_, wheel):
            for read in (wheel.read, lambda path: list(wheel.chunks(path))):
                with pytest.raises(PackageIndexError, match=reason):
                    read("a")

    @pytest.mark.parametrize(
        ("place", "value", "reason"),
        [
            (0, b"PK\3\5", "not where the central directory places it"),
            (28, b"\xff\xff", "longer than the room it has"),  # the length of the extra field
        ],
    )
    def test_a_local_header_that_contradicts(self, place: int, value: bytes, reason: str) -> None:
        with remote({"a": packed(TEXT), "b": packed(TEXT)}) as (served, wheel):
            served.content = served.content[:place] + value + served.content[place + len(value) :]
            with pytest.raises(PackageIndexError, match=reason):
                wheel.read("a")
            assert wheel.read("b") == TEXT

    def test_members_closer_than_a_local_header_is_long(self) -> None:
        content = bytearray(zipped({"a": packed(TEXT), "b": packed(TEXT)}))
        second = content.rindex(b"PK\1\2")
        content[second + 42 : second + 46] = (20).to_bytes(4, "little")  # the offset of the local header
        with serving(bytes(content)) as served, Session() as session:
            wheel = RemoteWheel(session, served.url, limits=NO_PAUSES)
            for path in ("a", "b"):
                with pytest.raises(PackageIndexError, match=f"{path} is not where the central directory places it"):
                    wheel.read(path)

    def test_a_member_in_chunks_alone(self) -> None:
        with remote({"a": packed(TEXT)}) as (_, wheel):
            assert b"".join(wheel.chunks("a")) == TEXT

    def test_members_packed_in_a_rare_way(self) -> None:
        with pytest.raises(PackageIndexError, match="not compressed by DEFLATE"), remote({"a": (b"abc", 97, b"abc")}):
            pass

    @pytest.mark.parametrize("path", ["torch/include/ATen/../../../out", "/out", "torch\\out", "torch/a\nb"])
    def test_members_that_lead_out(self, path: str) -> None:
        with pytest.raises(PackageIndexError, match="the name"), remote({path: (b"abc", STORED, b"abc")}):
            pass

    def test_a_directory_that_begins_before_the_file(self) -> None:
        end = b"PK\5\6" + bytes(8) + (1000).to_bytes(4, "little") + bytes(6)
        with (
            serving(end) as served,
            Session() as session,
            pytest.raises(PackageIndexError, match="it is not a zip file"),
        ):
            RemoteWheel(session, served.url, limits=NO_PAUSES)

    @pytest.mark.parametrize("content", [b"", b"no zip file", b"PK\5\6" + bytes(18)])
    def test_what_is_no_zip_file(self, content: bytes) -> None:
        with serving(content) as served, Session() as session:
            if content.startswith(b"PK"):
                assert RemoteWheel(session, served.url).members == {}
            else:
                with pytest.raises(PackageIndexError):
                    RemoteWheel(session, served.url)

    def test_a_directory_longer_than_what_is_read_ahead(self) -> None:
        members = {f"{number}.h": packed(b"%d" % number) for number in range(300)}
        with serving(zipped(members)) as served, Session() as session:
            wheel = RemoteWheel(session, served.url, limits=Limits(directory=4000))
            assert list(wheel.members) == list(members)
            assert wheel.requests > 1


class TestFaults:
    @pytest.mark.parametrize(
        ("fault", "reason"),
        [
            ("whole", "does not answer range requests"),
            ("404", "404 Not Found"),
            ("503", "503 Service Unavailable"),
            ("silent", "which range"),
            ("other", "a range other"),
            ("encoded", "encodes"),
            ("cut", "read"),
            ("slow", "timed out"),
        ],
    )
    def test_from_the_start(self, fault: str, reason: str) -> None:
        with serving(zipped({"a": packed(TEXT)})) as served, Session() as session:
            served.fault = lambda _: fault
            with pytest.raises(PackageIndexError, match=reason) as caught:
                RemoteWheel(session, served.url, limits=IMPATIENT if fault == "slow" else NO_PAUSES)
            assert caught.value.where == served.url

    @pytest.mark.parametrize(
        ("fault", "reason"),
        [
            ("whole", "changed"),
            ("grown", "changed"),
            ("416", "changed"),
            ("other", "a range other"),
            ("cut", "read"),
            ("503", "503"),
        ],
    )
    def test_later(self, fault: str, reason: str) -> None:
        with remote({"a": packed(TEXT)}) as (served, wheel):
            served.fault = lambda _: fault
            with pytest.raises(PackageIndexError, match=reason):
                wheel.read("a")

    @pytest.mark.parametrize("fault", ["cut", "short", "503"])
    def test_once_is_made_up_for(self, fault: str) -> None:
        with serving(zipped({"a": packed(TEXT)})) as served, Session() as session:
            served.fault = lambda number: fault if number in (0, 2) else ""
            wheel = RemoteWheel(session, served.url, limits=NO_PAUSES)
            assert wheel.read("a") == TEXT
            assert wheel.requests == len(served.asked) == 4

    def test_an_answer_that_does_not_come_is_asked_for_again(self) -> None:
        """On a machine under load, a good answer may come too late as well."""
        patient = replace(IMPATIENT, pauses=(0.0,) * 100)
        with serving(zipped({"a": packed(TEXT)})) as served, Session() as session:
            served.fault = lambda number: "slow" if number in (0, 2) else ""
            wheel = RemoteWheel(session, served.url, limits=patient)
            assert wheel.read("a") == TEXT
            assert wheel.requests == len(served.asked) >= 4

    @pytest.mark.parametrize("tags", [('"one"', '"two"'), ('W/"one"', 'W/"two"'), ("", '"two"')])
    def test_a_wheel_that_changes_without_changing_its_size(self, tags: tuple[str, str]) -> None:
        with serving(zipped({"a": packed(TEXT)})) as served, Session() as session:
            served.etag = tags[0]
            wheel = RemoteWheel(session, served.url, limits=NO_PAUSES)
            assert wheel.read("a") == TEXT
            served.etag = tags[1]
            with pytest.raises(PackageIndexError, match="changed"):
                wheel.read("a")

    def test_nobody_listens(self) -> None:
        with serving(b"") as served:
            url = served.url
        with Session() as session, pytest.raises(PackageIndexError, match="cannot be read in parts"):
            RemoteWheel(session, url, limits=NO_PAUSES)

    def test_no_password_is_told(self) -> None:
        with serving(b"no zip file") as served, Session() as session:
            with pytest.raises(PackageIndexError) as caught:
                RemoteWheel(session, served.url.replace("//", "//me:secret@"))
            assert "secret" not in str(caught.value)


class TestBounds:
    """What a server sends, and what a directory claims, decides neither time nor memory."""

    def test_more_than_was_requested(self) -> None:
        with remote({"a": packed(TEXT)}) as (served, wheel):
            served.fault = lambda _: "endless"
            with pytest.raises(PackageIndexError, match="more than the requested range"):
                wheel.read("a")

    def test_a_bound_of_the_connection_is_not_tried_again(self) -> None:
        bounds = Bounds(most=1000, seconds=60, slowest=1000, longest=60)
        with serving(zipped({"a": packed(TEXT)})) as served, session_with(bounds, secure=False) as session:
            with pytest.raises(PackageIndexError, match="more than 1000 bytes"):
                RemoteWheel(session, served.url, limits=NO_PAUSES)
            assert len(served.asked) == 1

    def test_a_wheel_that_is_longer_than_any(self, tmp_path: Path) -> None:
        content = zipped({"a": packed(TEXT)})
        with serving(content) as served:
            index = PackageIndex(served.url, limits=replace(NO_PAUSES, file=len(content) - 1))
            opened = index.open_downloaded(the_file(served), tmp_path)
            with pytest.raises(PackageIndexError, match=f"it has {len(content)} bytes"):
                opened.__enter__()
            assert len(served.asked) == 1

    def test_a_wheel_that_is_downloaded_whole(self, tmp_path: Path) -> None:
        with serving(zipped({"a": packed(b"a"), "b": packed(b"b")})) as served:
            index, file = PackageIndex(served.url, limits=NO_PAUSES), the_file(served)
            with index.open_downloaded(file, tmp_path) as wheel:
                assert (wheel.read("a"), wheel.read("b")) == (b"a", b"b")
            served.content = zipped({"a": packed(b"a"), "b": packed(b"c")})
            with pytest.raises(PackageIndexError, match="not the file whose SHA-256 the index states"):
                index.open_downloaded(file, tmp_path).__enter__()
            assert not list(tmp_path.iterdir())

    def test_a_copy_that_lost_its_end(self, tmp_path: Path) -> None:
        with serving(b"0123456789") as served, Session() as session, (tmp_path / "copy").open("w+b") as copy:
            remote = Ranges(session, served.url)
            assert remote.tail(1) == b"9"
            copy.write(b"0123")
            copy.flush()
            with pytest.raises(PackageIndexError, match="it ends too early"):
                FileRanges(copy, remote).get(0, 10)

    def test_of_a_wheel_with_few_members_little_is_read(self) -> None:
        noise = random.Random(1).randbytes(1 << 20)
        members = {"a": (noise, STORED, noise), "demo-1.0.dist-info/METADATA": packed(b"Name: demo\n")}
        with serving(zipped(members)) as served:
            assert PackageIndex(served.url).metadata(the_file(served)) == "Name: demo\n"
            assert served.asked[0] == f"bytes=-{1 << 16}"

    def test_a_long_directory_is_not_read(self) -> None:
        members = {f"{number}.h": packed(b"%d" % number) for number in range(300)}
        limits = Limits(directory=1000, longest_directory=4000, pauses=())
        with serving(zipped(members)) as served, Session() as session, pytest.raises(PackageIndexError, match="is too"):
            RemoteWheel(session, served.url, limits=limits)

    def test_neighbours_of_more_than_is_held_in_memory_come_one_by_one(self) -> None:
        noise = [random.Random(number).randbytes(1000) for number in range(3)]
        members = {f"{number}.bin": (content, STORED, content) for number, content in enumerate(noise)}
        limits = replace(NO_PAUSES, directory=300, most=2500)  # what is read ahead has no member
        with remote(members, limits=limits) as (served, wheel):
            before = len(served.asked)
            assert list(wheel.read_many(members).values()) == noise
            assert len(served.asked) - before == 2

    def test_members_that_inflate_to_more_than_is_read_at_once(self) -> None:
        limits = replace(NO_PAUSES, inflated=len(TEXT) + 5)
        with remote({"a": packed(TEXT), "b": packed(b"x" * 6)}, limits=limits) as (_, wheel):
            assert wheel.read("a") == TEXT
            with pytest.raises(PackageIndexError, match=f"more than {len(TEXT) + 5} bytes"):
                wheel.read_many(["a", "b"])

    def test_a_member_that_no_library_compresses_to(self) -> None:
        content = zipped({"a": packed(TEXT)})
        claim = (300 << 20).to_bytes(4, "little")
        bomb = content.replace(len(TEXT).to_bytes(4, "little"), claim)
        assert bomb != content
        with serving(bomb) as served, Session() as session, pytest.raises(PackageIndexError, match="314572800 bytes"):
            RemoteWheel(session, served.url, limits=NO_PAUSES)

    def test_a_member_behind_the_directory(self) -> None:
        content = bytearray(zipped({"a": packed(TEXT)}))
        entry = content.rindex(b"PK\1\2")
        content[entry + 42 : entry + 46] = len(content).to_bytes(4, "little")  # the offset of the local header
        with serving(bytes(content)) as served, Session() as session, pytest.raises(PackageIndexError, match="behind"):
            RemoteWheel(session, served.url, limits=NO_PAUSES)

    def test_metadata_that_is_too_long(self) -> None:
        name = "demo-1.0.dist-info/METADATA"
        for members, limit in (({name: packed(TEXT)}, 100), ({name: packed(b"x"), f"a{name}": packed(b"y")}, 100)):
            with serving(zipped(members)) as served:
                index = PackageIndex(served.url, limits=replace(NO_PAUSES, metadata=limit))
                with pytest.raises(PackageIndexError, match="no METADATA, or more than one, or one of more than 100"):
                    index.metadata(the_file(served))

    def test_a_stretch_in_which_everything_may_be_a_block(self) -> None:
        """Each empty block with codes of its own begins like any other, and none of them ends as the stretch does."""
        block = zlib.compressobj(9, zlib.DEFLATED, -15)
        names_like = " ".join(names(300)).encode()
        once = block.compress(names_like) + block.flush(zlib.Z_FULL_FLUSH)
        assert resync(once * 300, to_end=True) is None


def test_the_index_opens_wheels() -> None:
    with serving(zipped({"a": packed(TEXT)})) as served:
        file = DistributionPackage("torch-1.0-py3-none-any.whl", served.url, None, None, None, {}, None, None)
        with PackageIndex(served.url).open_wheel(file) as wheel:
            assert wheel.read("a") == TEXT
            assert wheel.name == "torch-1.0-py3-none-any.whl"
        served.fault = lambda _: "404"
        with pytest.raises(PackageIndexError, match="404"), PackageIndex(served.url).open_wheel(file):
            pass


class TestExported:
    def check(self, found: Exported, library: Library) -> None:
        assert found.names == set(library.exported)
        assert (found.soname, list(found.needed)) == (library.soname, library.needed)
        assert len(found.symbols) == len(library.exported)

    @pytest.mark.parametrize("gnu", [True, False])
    def test_defined_ones_that_others_see(self, gnu: bool) -> None:
        library = Library(["one", "two", "_ZN3c107SymIntE"], hidden=[] if gnu else ["secret"], gnu=gnu)
        with remote({LIBRARY: packed(library.content())}) as (_, wheel):
            self.check(exported(wheel, LIBRARY), library)

    @pytest.mark.parametrize("gnu", [True, False])
    def test_none(self, gnu: bool) -> None:
        library = Library([], gnu=gnu)
        with remote({LIBRARY: packed(library.content())}) as (_, wheel):
            self.check(exported(wheel, LIBRARY), library)

    def test_a_hash_table_with_others_is_refused(self) -> None:
        content = Library(["one", "two"], undefined=[]).content()
        for old, new in ((b"two\0", b"owt\0"), (b"one\0", b"onE\0")):
            with (
                remote({LIBRARY: packed(content.replace(old, new))}) as (_, wheel),
                pytest.raises(PackageIndexError, match="1 of its 2"),
            ):
                exported(wheel, LIBRARY)

    @pytest.mark.parametrize("content", [b"", b"text", b"\x7fELF\1\1" + bytes(90), b"\x7fELF\2\1" + bytes(90)])
    def test_what_is_no_library(self, content: bytes) -> None:
        with remote({LIBRARY: packed(content)}) as (_, wheel), pytest.raises(PackageIndexError, match="it is no"):
            exported(wheel, LIBRARY)

    def test_this_interpreter_s_own_as_pyelftools_sees_them(self) -> None:
        folder = Path(sysconfig.get_config_var("DESTSHARED"))
        paths = sorted(folder.glob("*.so"), key=lambda path: -path.stat().st_size)[:8:4]
        need(bool(paths), "needs an interpreter with extension modules of its own")
        contents = {f"torch/lib/{path.name}": path.read_bytes() for path in paths}
        members = {path: packed(content) for path, content in contents.items()}
        members |= {f"stored/{path}": (content, STORED, content) for path, content in contents.items()}
        with remote(members) as (_, wheel):
            libraries = torch_libraries(wheel, limits=SMALLER)
            assert list(libraries) == sorted(contents)
            for path, content in contents.items():
                table = ELFFile(BytesIO(content)).get_section_by_name(".dynsym")
                assert isinstance(table, SymbolTableSection)
                seen = {
                    symbol.name
                    for symbol in table.iter_symbols()
                    if symbol["st_shndx"] != "SHN_UNDEF"
                    and symbol["st_info"]["bind"] != "STB_LOCAL"
                    and symbol["st_other"]["visibility"] in ("STV_DEFAULT", "STV_PROTECTED")
                }
                assert libraries[path].names == seen
                assert exported(wheel, f"stored/{path}", SMALLER) == libraries[path]

    def test_only_the_ends_of_a_large_one_are_read(self, large: tuple[Library, bytes]) -> None:
        library, content = large
        with remote({LIBRARY: packed(content)}) as (_, wheel):
            before = wheel.fetched
            self.check(exported(wheel, LIBRARY, SMALLER), library)
            assert wheel.fetched - before < wheel.members[LIBRARY].compress_size * 2 / 3

    def test_only_the_ends_of_a_large_one_for_arm64_are_read(self) -> None:
        library = Library(names(3000), text=3_000_000, linker=60_000, arm64=True)
        with remote({LIBRARY: packed(library.content())}) as (_, wheel):
            before = wheel.fetched
            self.check(exported(wheel, LIBRARY, SMALLER), library)
            assert wheel.fetched - before < wheel.members[LIBRARY].compress_size * 2 / 3

    def test_program_headers_in_the_middle(self) -> None:
        """As libtorch_cuda.so of 2.15.0 for arm64 has them; all of it is read, and once more if they were lost."""
        library = Library(names(3000), text=12_000_000, linker=6000, arm64=True, moved=True)
        with remote({LIBRARY: packed(library.content())}) as (_, wheel):
            before = wheel.fetched
            self.check(exported(wheel, LIBRARY, SMALLER), library)
            assert (wheel.fetched - before) / wheel.members[LIBRARY].compress_size < 2.1

    def test_program_headers_in_the_middle_after_a_start_that_was_damaged_on_its_way(self) -> None:
        library = Library(names(1500), text=12_000_000, arm64=True, moved=True)
        with remote({LIBRARY: packed(library.content())}) as (served, wheel):
            whole, place = served.content, 30 + len(LIBRARY) + 2
            damaged = whole[:place] + bytes([whole[place] ^ 0xFF]) * 20 + whole[place + 20 :]

            def fault(number: int) -> str:
                served.content = damaged if number < 3 else whole
                return ""

            served.fault = fault
            self.check(exported(wheel, LIBRARY, SMALLER), library)

    @pytest.mark.parametrize(
        "data",
        [
            lambda content: deflated(content, 0),
            lambda content: deflated(content, 6, zlib.Z_FIXED),
            lambda content: deflated(content, 1),
            lambda content: deflated(content, 9, zlib.Z_HUFFMAN_ONLY),
            lambda content: halves(content, 0),
            lambda content: halves(content, 6, zlib.Z_FIXED),
        ],
        ids=["stored", "fixed", "fast", "huffman", "then stored", "then fixed"],
    )
    def test_blocks_of_any_kind(self, data: Callable[[bytes], bytes]) -> None:
        library = Library(names(2000), text=300_000, linker=4000)
        content = library.content()
        with remote({LIBRARY: (content, DEFLATED, data(content))}) as (_, wheel):
            self.check(exported(wheel, LIBRARY, SMALLER), library)

    def test_all_of_it_in_one_pass(self, large: tuple[Library, bytes]) -> None:
        """Where the ends do not suffice, as here with none of the tail, the whole library is read, once."""
        library, content = large
        with remote({LIBRARY: packed(content)}) as (_, wheel):
            before = wheel.fetched
            self.check(exported(wheel, LIBRARY, replace(SMALLER, tail=0)), library)
            assert 1 <= (wheel.fetched - before) / wheel.members[LIBRARY].compress_size < 1.1

    def test_flipped_bits_never_give_other_names(self) -> None:
        library = Library(names(1500), text=400_000, linker=3000)
        rng = random.Random(5)
        with remote({LIBRARY: packed(library.content())}) as (served, wheel):
            whole, size = served.content, wheel.members[LIBRARY].compress_size
            refused = 0
            for turn in range(36):
                place = rng.randrange(size) if turn % 3 else size - rng.randrange(30_000)
                served.content = whole[:place] + bytes([whole[place] ^ 1 << rng.randrange(8)]) + whole[place + 1 :]
                try:
                    assert exported(wheel, LIBRARY, SMALLER).names == set(library.exported)
                except PackageIndexError:
                    refused += 1
            assert refused > 12

    def test_a_bit_flipped_on_its_way_is_read_again(self) -> None:
        library = Library(names(1500), text=400_000)
        content = library.content()
        with remote({LIBRARY: packed(content)}) as (served, wheel):
            whole, place = served.content, wheel.members[LIBRARY].compress_size - 3000
            damaged = whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]

            def fault(number: int) -> str:
                served.content = damaged if number < 4 else whole
                return ""

            served.fault = fault
            self.check(exported(wheel, LIBRARY, SMALLER), library)
            assert wheel.fetched > wheel.members[LIBRARY].compress_size

    def test_the_libraries_of_torch(self) -> None:
        made = {
            path: Library([f"{path[-9:-3]}_{number}" for number in range(5)])
            for path in (
                "torch/lib/libtorch_python.so", "torch/lib/libc10.so", "torch/lib/libgomp.so.1",
                "torch/_C.cpython-312-x86_64-linux-gnu.so", "torch/bin/tool.so", "torch/lib/deeper/libx.so",
                "torch.libs/libgomp-947d5fa1.so.1.0.0",
            )
        }  # fmt: skip
        with remote({path: packed(library.content()) for path, library in made.items()}) as (_, wheel):
            assert {path: found.names for path, found in torch_libraries(wheel).items()} == {
                path: set(made[path].exported) for path in made if "/deeper/" not in path and "/bin/" not in path
            }
            assert sorted(torch_libraries(wheel, of_python=True)) == [
                "torch/_C.cpython-312-x86_64-linux-gnu.so", "torch/lib/libtorch_python.so"
            ]  # fmt: skip


def halves(content: bytes, *second: int) -> bytes:
    """Half a stream as usual, the rest of it with another level and strategy."""
    first = zlib.compressobj(6, zlib.DEFLATED, -15)
    middle = len(content) // 2
    return first.compress(content[:middle]) + first.flush(zlib.Z_FULL_FLUSH) + deflated(content[middle:], *second)


def test_hashes() -> None:
    # The values of glibc's documentation and of `readelf --histogram`.
    assert [gnu_hash(name) for name in (b"", b"printf", b"exit", b"syscall")] == [
        0x1505,
        0x156B2BB8,
        0x7C967E3F,
        0xBAC212A0,
    ]
    assert [sysv_hash(name) for name in (b"", b"printf", b"exit", b"syscall")] == [
        0,
        0x077905A6,
        0x0006CF04,
        0x0B09985C,
    ]
    long = b"ab" * 20000
    value = 5381
    for byte in long:
        value = value * 33 + byte & 0xFFFFFFFF
    assert gnu_hash(long) == value


@pytest.mark.parametrize("level", [1, 6, 9])
def test_what_is_known_from_the_middle_of_a_stream_is_right(level: int) -> None:
    rng = random.Random(level)
    numbers = b"".join(b"%d," % rng.randrange(9999) for _ in range(90_000))
    content = " ".join(names(30_000)).encode() + rng.randbytes(100_000) + numbers
    stream = deflated(content, level)
    for _ in range(6):
        start = rng.randrange(len(stream) // 2)  # among the names
        found = resync(stream[start:], to_end=True)
        assert found
        assert len(found.data) > (len(stream) - start) // 2
        end = content[-len(found.data) :]
        known = list(map(operator.eq, found.data, found.other))
        assert sum(known) > len(found.data) // 2
        assert bytes(compress(found.data, known)) == bytes(compress(end, known))
        assert found.data.endswith(numbers), "nothing is copied across 100 kB that are never repeated"
        part = resync(stream[start : start + 120_000], to_end=False)
        assert part
        assert found.data.startswith(part.data[:1000])
    assert resync(rng.randbytes(100_000), to_end=True) is None
    assert resync(stream[1000:-1], to_end=True) is None
