"""Finished jobs on their way to another machine: what arrives is what was made, and what was not is refused as a whole."""

import hashlib
import io
import json
import os
import shutil
import signal
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import CHECKOUT
from tests.family import with_arm64
from tests.proofs import STAGES, prove
from torch_build_farm.core.archives import Limits
from torch_build_farm.core.errors import Interrupted, LockedError, PackError, UnsafeNameError
from torch_build_farm.core.files import remove_tree, sha256
from torch_build_farm.core.process import Runner
from torch_build_farm.core.seals import STATE_VARIABLE
from torch_build_farm.pipeline import packs, records, workfolder
from torch_build_farm.project.settings import load
from torch_build_farm.publish.upload_plan import proven

PROJECT = with_arm64(load(CHECKOUT, CHECKOUT), "2.8", "2.9")
NAME = "pymomentum-gpu"
JOB, OTHER = f"{NAME}-torch29-cp312", f"{NAME}-torch28-cp312"
WHEEL = "pymomentum_gpu_torch29-1.0-cp312-cp312-manylinux_2_28_x86_64.whl"
OTHER_WHEEL = WHEEL.replace("torch29", "torch28")
ARM64_JOB, ARM64_WHEEL = f"{JOB}-aarch64", WHEEL.replace("x86_64", "aarch64")


def finished(work: Path, job: str = JOB, wheel: str = WHEEL, content: bytes = b"a wheel") -> Path:
    """A job that has delivered its wheel."""
    folder = work / "jobs" / job
    (folder / "relocated").mkdir(parents=True, exist_ok=True)
    (folder / "relocated" / wheel).write_bytes(content)
    delivered = workfolder.deliver(folder / "relocated" / wheel, folder, work)
    prove(delivered, work, job)
    return delivered


@pytest.fixture
def builder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The work folder of a machine that builds; what comes after runs on another one, with a key of its own."""
    monkeypatch.setenv(STATE_VARIABLE, str(tmp_path / "builder's key"))
    finished(tmp_path / "builder")
    finished(tmp_path / "builder", OTHER, OTHER_WHEEL, b"another wheel")
    return tmp_path / "builder"


@pytest.fixture
def pack(builder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    def make(*jobs: str) -> Path:
        with monkeypatch.context() as patch:
            patch.setenv(STATE_VARIABLE, str(tmp_path / "builder's key"))
            return packs.write(builder, jobs, tmp_path / f"{'+'.join(jobs)}.tar").path

    monkeypatch.setenv(STATE_VARIABLE, str(tmp_path / "publisher's key"))
    return make


@pytest.fixture
def work(tmp_path: Path) -> Path:
    return tmp_path / "publisher"


def members(pack: Path) -> dict[str, bytes]:
    with tarfile.open(pack) as archive:
        return {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]


def write(path: Path, content: Mapping[str, bytes], *more: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in content.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        for member in more:
            archive.addfile(member)
    return path


def left(work: Path) -> list[str]:
    """The files in a work folder."""
    return sorted(path.relative_to(work).as_posix() for path in work.rglob("*") if path.is_file())


def refused(work: Path, words: str, *files: Path, digests: Mapping[str, str] | str | None = None) -> None:
    """Packs that are refused, and leave nothing behind."""
    expected = sha256(files[0]) if digests is None else digests
    before = left(work) if work.exists() else []
    with pytest.raises(PackError, match=words):
        packs.accept(files, expected, PROJECT, work)
    assert left(work) == before


def test_what_was_proven_there_is_proven_here(pack: Callable[..., Path], builder: Path, work: Path) -> None:
    files = {job: pack(job) for job in (JOB, OTHER)}
    digests = {job: sha256(path) for job, path in files.items()}
    accepted = packs.accept(list(files.values()), digests, PROJECT, work)
    assert [(wheel.job, wheel.name) for wheel in accepted] == [(JOB, WHEEL), (OTHER, OTHER_WHEEL)]
    assert accepted[0].sha256 == sha256(work / "dist" / WHEEL)
    assert (work / "dist" / WHEEL).read_bytes() == b"a wheel"
    assert proven([work / "dist" / WHEEL, work / "dist" / OTHER_WHEEL], work) == []
    for stage in STAGES:
        there, here = (records.path_of(folder / "jobs" / JOB, stage) for folder in (builder, work))
        assert records.read(here) == records.claim(there), "sealed anew, and otherwise as it was"
        assert records.read(there) is None
    assert [path for path in work.iterdir() if path.name.startswith("accept-")] == []


def test_jobs_of_two_platforms_travel_apart(
    pack: Callable[..., Path], builder: Path, work: Path, tmp_path: Path
) -> None:
    """Each machine vouches for the jobs of its own platform alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(STATE_VARIABLE, str(tmp_path / "builder's key"))
        finished(builder, ARM64_JOB, ARM64_WHEEL, b"a wheel for arm64")
    mixed = pack(JOB, ARM64_JOB)
    refused(work, f"the pack that {JOB} vouches for is of {JOB}, {ARM64_JOB}", mixed, digests={JOB: sha256(mixed)})
    files = {job: pack(job) for job in (JOB, ARM64_JOB)}
    accepted = packs.accept(list(files.values()), {job: sha256(path) for job, path in files.items()}, PROJECT, work)
    assert [(wheel.job, wheel.name) for wheel in accepted] == [(JOB, WHEEL), (ARM64_JOB, ARM64_WHEEL)]
    assert proven([work / "dist" / WHEEL, work / "dist" / ARM64_WHEEL], work) == []


@pytest.mark.parametrize(("job", "wheel"), [(ARM64_JOB, WHEEL), (JOB, ARM64_WHEEL)])
def test_a_wheel_of_another_platform_than_its_job(
    builder: Path, work: Path, tmp_path: Path, job: str, wheel: str
) -> None:
    remove_tree(builder)
    finished(builder, job, wheel)
    made = packs.write(builder, [job], tmp_path / "pack.tar").path
    refused(work, f"{wheel}, which is not for (x86-64|arm64)", made)


def test_a_release_travels_as_one_pack(pack: Callable[..., Path], work: Path, tmp_path: Path) -> None:
    """And again from there: the machine that accepted it packs it with its own proofs."""
    first = pack(JOB, OTHER)
    assert len(packs.accept([first], sha256(first), PROJECT, work)) == 2
    second = packs.write(work, packs.finished_jobs(work), tmp_path / "second.tar")
    assert second.sha256 == sha256(second.path)
    assert [wheel.name for wheel in second.wheels] == [OTHER_WHEEL, WHEEL]


def test_the_same_job_gives_the_same_pack(pack: Callable[..., Path], builder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    """Whatever the dates and permissions of the files."""
    first = pack(JOB, OTHER).read_bytes()
    for path in builder.rglob("*"):
        os.utime(path, (1e9, 1e9))
        if path.is_file():
            path.chmod(0o755)
    assert pack(OTHER, JOB).read_bytes() == first


@pytest.mark.parametrize("stage", STAGES)
def test_only_what_is_proven_is_packed(builder: Path, tmp_path: Path, stage: str) -> None:
    path = records.path_of(builder / "jobs" / JOB, stage)
    content = path.read_bytes()
    path.write_bytes(content.replace(b'"seconds": 1', b'"seconds": 2'))
    with pytest.raises(PackError, match=f"{stage} is not proven: not sealed by this user's farm"):
        packs.write(builder, [JOB], tmp_path / "pack.tar")
    path.unlink()
    with pytest.raises(PackError, match=f"{stage} is not proven: it has left no record"):
        packs.write(builder, [JOB], tmp_path / "pack.tar")
    assert not (tmp_path / "pack.tar").exists()


def test_a_wheel_that_was_exchanged_is_not_packed(builder: Path, tmp_path: Path) -> None:
    (builder / "dist" / WHEEL).write_bytes(b"A wheel")
    with pytest.raises(PackError, match="not the one that was proven"):
        packs.write(builder, [JOB], tmp_path / "pack.tar")
    (builder / "dist" / WHEEL).unlink()
    with pytest.raises(PackError, match="cannot be read"):
        packs.write(builder, [JOB], tmp_path / "pack.tar")
    assert not (tmp_path / "pack.tar").exists()


def test_a_pack_that_nobody_vouches_for_is_not_read(pack: Callable[..., Path], work: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    """One byte differs, wherever; it is found before anything of the pack is looked at."""
    monkeypatch.setattr(packs, "unpack", lambda *_: pytest.fail("unpacked before it was compared"))
    file = pack(JOB)
    digest = sha256(file)
    whole = file.read_bytes()
    for place in (0, 600, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        refused(work, "nobody vouches for it", file, digests={JOB: digest})
    file.write_bytes(whole + b"\0")
    refused(work, "nobody vouches for it", file, digests={JOB: digest})


def test_a_missing_pack_and_one_too_many_are_both_named(pack: Callable[..., Path], work: Path) -> None:
    one, other = pack(JOB), pack(OTHER)
    refused(work, f"{OTHER} is missing", one, digests={JOB: sha256(one), OTHER: sha256(other)})
    refused(work, "nobody vouches for it", one, other, digests={JOB: sha256(one)})
    refused(work, "the same pack is given twice", one, one, digests={JOB: sha256(one)})
    refused(work, "two jobs vouch for the same pack", one, digests={JOB: sha256(one), OTHER: sha256(one)})
    refused(work, "cannot be read", one.with_name("none.tar"), digests={JOB: sha256(one)})
    refused(work, "is not a regular file", Path("/dev/zero"), digests={JOB: sha256(one)})


def test_a_job_does_not_bring_another_ones_wheel(pack: Callable[..., Path], work: Path, tmp_path: Path) -> None:
    """What a build may do is to put what it likes into its own pack, and vouch for that."""
    files = {job: pack(job) for job in (JOB, OTHER)}
    # Another job's pack under its own name, or two jobs in one pack.
    refused(work, f"that {OTHER} vouches for is of {JOB}", files[JOB], digests={OTHER: sha256(files[JOB])})
    both = pack(JOB, OTHER)
    refused(work, f"that {JOB} vouches for is of", both, digests={JOB: sha256(both)})
    # The other job's wheel, and records that speak of it.
    own, others = members(files[JOB]), members(files[OTHER])
    stolen = {name: data for name, data in own.items() if not name.startswith("dist/")}
    stolen[f"dist/{OTHER_WHEEL}"] = others[f"dist/{OTHER_WHEEL}"]
    name = f"jobs/{JOB}/records/relocate.json"
    document = json.loads(stolen[name])
    document["outputs"] = json.loads(others[f"jobs/{OTHER}/records/relocate.json"])["outputs"]
    stolen[name] = json.dumps(document).encode()
    refused(work, "has a wheel of pymomentum-gpu-torch28", write(tmp_path / "stolen.tar", stolen))


def test_a_wheel_whose_name_says_nothing(pack: Callable[..., Path], work: Path, tmp_path: Path) -> None:
    """The records speak of it, so that only its name is wrong."""
    content = {name.replace(WHEEL, "nothing.whl"): data for name, data in members(pack(JOB)).items()}
    name = f"jobs/{JOB}/records/relocate.json"
    content[name] = content[name].replace(WHEEL.encode(), b"nothing.whl")
    refused(work, "'nothing.whl' is no wheel's name", write(tmp_path / "bad.tar", content))


def test_a_pack_larger_than_any(pack: Callable[..., Path], work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even copied: a file of holes may be said to have terabytes."""
    file = pack(JOB)
    size = file.stat().st_size
    monkeypatch.setattr(packs, "_LIMITS", Limits(members=20_000, size=size))
    packs.accept([file], sha256(file), PROJECT, work)
    monkeypatch.setattr(packs, "_LIMITS", Limits(members=20_000, size=size - 1))
    refused(work, "the pack is too large", file)


def test_a_pack_with_more_files_than_any(work: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "bad.tar", {f"dist/{number}": b"" for number in range(20_001)})
    refused(work, "it has more members than", path)


def test_a_link_to_a_pack_is_that_pack(pack: Callable[..., Path], work: Path, tmp_path: Path) -> None:
    """It is the user's own, on the command line."""
    (tmp_path / "link.tar").symlink_to(pack(JOB))
    accepted = packs.accept([tmp_path / "link.tar"], sha256(tmp_path / "link.tar"), PROJECT, work)
    assert [wheel.job for wheel in accepted] == [JOB]


def both_made(machines: Path, tag: str, *contents: bytes) -> dict[str, packs.Pack]:
    """The packs of two machines, each with a CPython of its own, that made a wheel of the same name."""
    made = {}
    for job, content in zip((JOB, JOB.replace("cp312", "cp311")), contents, strict=True):
        machine = machines / job
        finished(machine, job, WHEEL.replace("cp312-cp312", tag), content)
        made[job] = packs.write(machine, [job], machines / f"{job}.tar")
    return made


def test_two_machines_that_made_the_same_wheel(builder: Path, work: Path, tmp_path: Path) -> None:
    """That of the older CPython is taken, and of the other what holds for its CPython: as one machine does it."""
    made = both_made(tmp_path, "cp310-abi3", b"same", b"same")
    digests = {job: pack.sha256 for job, pack in made.items()}
    for _ in range(2):  # again over what is there
        accepted = packs.accept([pack.path for pack in made.values()], digests, PROJECT, work)
        assert [wheel.job for wheel in accepted] == list(made)
        (delivered,) = (work / "dist").iterdir()
        assert proven([delivered], work) == []
        proofs = {job: sorted(path.stem for path in work.glob(f"jobs/{job}/records/*.json")) for job in made}
        assert proofs == {JOB: ["smoke"], JOB.replace("cp312", "cp311"): sorted(STAGES)}
        assert packs.finished_jobs(work) == (JOB.replace("cp312", "cp311"),)
        # What one machine did alone, and delivered under the same name.
        workfolder.deliver(delivered, work / "jobs" / JOB, work)


@pytest.mark.parametrize(
    ("tag", "contents"), [("cp310-abi3", (b"one", b"another")), ("cp312-cp312", (b"same", b"same"))]
)
def test_two_packs_with_a_wheel_of_the_same_name(
    builder: Path, work: Path, tmp_path: Path, tag: str, contents: tuple[bytes, bytes]
) -> None:
    """Each was tested with its own CPython alone, and only one can be published."""
    made = both_made(tmp_path, tag, *contents)
    digests = {job: pack.sha256 for job, pack in made.items()}
    refused(work, "both bring", *(pack.path for pack in made.values()), digests=digests)


@pytest.mark.parametrize("tag", ["cp313-cp313", "cp313-none"])
def test_a_job_in_two_packs(builder: Path, work: Path, tmp_path: Path, tag: str) -> None:
    """Its wheels may have two names, and the later one would take the place of the one that its machine vouches for."""
    younger = JOB.replace("cp312", "cp313")
    finished(builder, younger, WHEEL.replace("cp312-cp312", "cp313-cp313"), b"for 3.13")
    of_variant = packs.write(builder, [JOB, younger], tmp_path / "variant.tar")
    finished(tmp_path / "another", younger, WHEEL.replace("cp312-cp312", tag), b"for 3.13")
    alone = packs.write(tmp_path / "another", [younger], tmp_path / "alone.tar")
    digests = {JOB: of_variant.sha256, younger: alone.sha256}
    for paths in ((of_variant.path, alone.path), (alone.path, of_variant.path)):
        refused(work, f"{younger} is in two packs", *paths, digests=digests)


def test_a_machines_pack_has_all_jobs_of_its_variant(builder: Path, work: Path, tmp_path: Path) -> None:
    """And no others."""
    younger = JOB.replace("cp312", "cp313")
    finished(builder, younger, WHEEL.replace("cp312", "cp313"), b"for 3.13")
    of_variant = packs.write(builder, [JOB, younger], tmp_path / "variant.tar")
    with_another = packs.write(builder, [JOB, OTHER], tmp_path / "another.tar")
    refused(work, "vouches for is of", with_another.path, digests={JOB: with_another.sha256})
    refused(work, "vouches for is of", of_variant.path, digests={OTHER: of_variant.sha256})
    accepted = packs.accept([of_variant.path], {JOB: of_variant.sha256}, PROJECT, work)
    assert [wheel.job for wheel in accepted] == [JOB, younger]


def without(content: Mapping[str, bytes], name: str) -> dict[str, bytes]:
    return {key: data for key, data in content.items() if key != name}


def test_what_is_no_pack_of_this_project(pack: Callable[..., Path], work: Path, tmp_path: Path) -> None:
    good = members(pack(JOB))
    path = tmp_path / "bad.tar"
    for stage in STAGES:
        name = f"jobs/{JOB}/records/{stage}.json"
        refused(work, f"no record of {stage}", write(path, without(good, name)))
        refused(work, f"no record of {stage}", write(path, {**good, name: b"{}"}))
        old = good[name].replace(b'"schema": 3', b'"schema": 2')
        refused(work, f"no record of {stage}", write(path, {**good, name: old}))
    refused(work, "does not have the wheel", write(path, without(good, f"dist/{WHEEL}")))
    refused(work, "does not have the wheel", write(path, {**good, f"dist/{WHEEL}": b"swapped"}))
    renamed = {name.replace(JOB, "demo-torch29-cp312"): data for name, data in good.items()}
    refused(work, "which this project does not have", write(path, renamed))
    for name in ("dist/extra-1.0-py3-none-any.whl", "published.json", "jobs/x", f"jobs/{JOB}/records/more.json",
                 f"jobs/{JOB}/delivered", f"dist/{WHEEL}/x"):  # fmt: skip
        refused(work, "a file of no job|is twice|cannot be unpacked|does not have", write(path, {**good, name: b"x"}))
    refused(work, "a file of no job", write(path, {"dist/a.whl": b""}))
    path.write_bytes(b"")
    refused(work, "cannot be unpacked", path)


@pytest.mark.parametrize("name", ["../out", "/tmp/out", "dist/../../out", "jobs/x/../../../out"])
def test_a_pack_that_leads_out(pack: Callable[..., Path], work: Path, tmp_path: Path, name: str) -> None:
    good = members(pack(JOB))
    refused(work, "cannot be unpacked", write(tmp_path / "bad.tar", {**good, name: b"x"}))
    assert not list(tmp_path.rglob("out"))


def test_what_is_replaced_may_be_nested_deep(pack: Callable[..., Path], work: Path, request: pytest.FixtureRequest) -> None:  # fmt: skip
    """A build on this machine may have left more folders within one another than Python can walk by recursion."""
    request.addfinalizer(lambda: remove_tree(work))  # which pytest cannot do either
    deep = work / "jobs" / JOB
    deep.mkdir(parents=True)
    for _ in range(1200):
        deep /= "a"
        deep.mkdir()
    file = pack(JOB)
    packs.accept([file], sha256(file), PROJECT, work)
    assert not (work / "jobs" / JOB / "a").exists()


def test_links_in_a_pack(pack: Callable[..., Path], work: Path, tmp_path: Path) -> None:
    good = members(pack(JOB))
    secret = tmp_path / "secret"
    secret.write_text("secret")
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE):
        for name in (f"jobs/{JOB}/delivered", "dist/link.whl"):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = kind, str(secret)
            refused(work, "cannot be unpacked|has a link", write(tmp_path / "bad.tar", good, link))
    inner = tarfile.TarInfo(f"dist/{WHEEL}")
    inner.type, inner.linkname = tarfile.SYMTYPE, "../jobs/x"
    content = {**without(good, f"dist/{WHEEL}"), "jobs/x": b"a wheel"}
    refused(work, "has a link", write(tmp_path / "bad.tar", content, inner))


def test_what_an_earlier_run_left_is_replaced(pack: Callable[..., Path], work: Path) -> None:
    """Its wheel too, under whatever name: the dist folder has what the records speak of."""
    finished(work, JOB, WHEEL.replace("1.0", "0.9"), b"old")
    (work / "jobs" / JOB / "records" / "extra.json").write_text("{}")
    file = pack(JOB)
    packs.accept([file], sha256(file), PROJECT, work)
    assert [path.name for path in (work / "dist").iterdir()] == [WHEEL]
    assert sorted(path.stem for path in (work / "jobs" / JOB / "records").iterdir()) == sorted(STAGES)
    workfolder.withdraw(work / "jobs" / JOB, work)
    assert list((work / "dist").iterdir()) == []


def test_a_pack_that_is_exchanged_while_it_is_read(pack: Callable[..., Path], work: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    """What counts is the copy that is unpacked, not the file that somebody else may still write."""
    good, other = pack(JOB), pack(OTHER)
    copy_whole = shutil.copyfileobj

    def copy_and_exchange(*arguments: Any) -> None:
        copy_whole(*arguments)
        good.write_bytes(whole)

    monkeypatch.setattr(shutil, "copyfileobj", copy_and_exchange)
    whole = good.read_bytes()
    good.write_bytes(other.read_bytes())
    refused(work, "nobody vouches for it", good, digests={JOB: hashlib.sha256(whole).hexdigest()})


def test_a_job_folder_that_leads_out(pack: Callable[..., Path], work: Path, tmp_path: Path) -> None:
    """A build has put a link in place of another job's folder."""
    finished(work, OTHER, OTHER_WHEEL)
    (tmp_path / "elsewhere" / "records").mkdir(parents=True)
    (tmp_path / "elsewhere" / "delivered").write_text(OTHER_WHEEL)
    (work / "jobs" / JOB).symlink_to(tmp_path / "elsewhere")
    file = pack(JOB)
    with pytest.raises(UnsafeNameError, match="leads out of its folder by a link"):
        packs.accept([file], sha256(file), PROJECT, work)
    assert left(tmp_path / "elsewhere") == ["delivered"]
    assert (work / "dist" / OTHER_WHEEL).exists()


def test_a_link_in_the_dist_folder_is_replaced(tmp_path: Path) -> None:
    """Even one to the same bytes: whoever may write those could change them later."""
    wheel = finished(tmp_path / "work")
    copy = tmp_path / "copy"
    copy.write_bytes(wheel.read_bytes())
    wheel.unlink()
    wheel.symlink_to(copy)
    finished(tmp_path / "work")
    assert not wheel.is_symlink()
    assert wheel.read_bytes() == copy.read_bytes()


def test_a_delivery_note_names_wheels_of_the_dist_folder_alone(tmp_path: Path) -> None:
    """Builds may write it, and what it names is deleted."""
    wheel = finished(tmp_path / "work")
    note = tmp_path / "work" / "jobs" / JOB / "delivered"
    kept = [tmp_path / "secret.whl", tmp_path / "work" / "secret.whl", tmp_path / "work" / "dist" / "notes.txt"]
    for path in kept:
        path.write_text("kept")
    (tmp_path / "work" / "dist" / "link.whl").symlink_to(tmp_path / "secret.whl")
    for name in ("../../secret.whl", "../secret.whl", str(kept[0]), "notes.txt", "", ".", "a\0.whl", "x" * 5000, "link.whl", "é" * 300):  # fmt: skip
        note.unlink(missing_ok=True)
        note.write_text(name)
        workfolder.withdraw(tmp_path / "work" / "jobs" / JOB, tmp_path / "work")
        assert all(path.exists() for path in kept), name
        assert not note.exists()
    (tmp_path / "note").write_text(wheel.name)
    note.symlink_to(tmp_path / "note")
    workfolder.withdraw(tmp_path / "work" / "jobs" / JOB, tmp_path / "work")
    assert wheel.exists()
    os.mkfifo(note)
    workfolder.withdraw(tmp_path / "work" / "jobs" / JOB, tmp_path / "work")
    assert wheel.exists()
    note.write_text(wheel.name)
    workfolder.withdraw(tmp_path / "work" / "jobs" / JOB, tmp_path / "work")
    assert not wheel.exists()
    shutil.rmtree(tmp_path / "work")
    workfolder.withdraw(tmp_path / "work" / "jobs" / JOB, tmp_path / "work")


def test_one_farm_works_in_a_folder_at_a_time(tmp_path: Path) -> None:
    runner = Runner()
    said: list[str] = []

    def interrupt(text: str) -> None:
        said.append(text)
        runner.cancel(signal.SIGINT)

    with workfolder.locked(tmp_path, runner, False, said.append):
        pass
    with workfolder.locked(tmp_path, runner, False, said.append):
        with pytest.raises(Interrupted), workfolder.locked(tmp_path, runner, True, interrupt):
            pass
        with (
            pytest.raises(LockedError, match=rf"another farm \(process {os.getpid()}\) works in this folder"),
            workfolder.locked(tmp_path, runner, False, said.append),
        ):
            pass
    assert said == [f"waiting for process {os.getpid()}, which works in {tmp_path}"]
