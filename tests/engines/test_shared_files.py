"""What foreign code does to its environment on the local engine, and whether anybody else notices."""

import contextlib
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from tests.engines.foreign import JOB, Machine, write_package
from torch_build_farm.core.errors import BuildError, FarmError, UnsafeNameError
from torch_build_farm.engines import torch_bytecode
from torch_build_farm.engines.base import ccache_of
from torch_build_farm.engines.shared_files import LARGE, share

SITE_PACKAGES = "pathlib.Path(sys.prefix, 'lib', f'python3.{sys.version_info[1]}', 'site-packages')"
LEAVE_A_TRACE = "import pathlib; pathlib.Path({trace!r}).touch()"


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine(tmp_path)
    monkeypatch.setenv("UV_FIND_LINKS", str(made.index))
    monkeypatch.setenv("UV_OFFLINE", "1")
    write_package(
        made.index,
        "small",
        {
            "small/__init__.py": b"value = 1\n",
            "small/data.txt": b"data",
            "small-1.0.data/scripts/small-tool": b"#!python\nprint('tool')\n",
            "small-1.0.data/data/share/small.txt": b"data",
            "small.pth": b"\n",
        },
    )
    write_package(made.index, "large", {"large/__init__.py": b"value = 1\n", "large/weights": b"1" * LARGE})
    return made


def cache(machine: Machine) -> Mapping[str, bytes]:
    """Every file that uv unpacked, with its content."""
    files = machine.store.uv_cache.glob("archive-v*/*/**/*")
    return {str(path): path.read_bytes() for path in files if path.is_file() and path.stat().st_size < LARGE}


def append(file: str, trace: Path) -> str:
    """A statement that appends to a file of the environment."""
    code = LEAVE_A_TRACE.format(trace=str(trace))
    return f"with open({SITE_PACKAGES} / {file!r}, 'a') as stream: stream.write({code!r} + chr(10))"


IMPORT_ALL = "import small, large"


def test_edits_of_small_packages_stay_in_their_environment(machine: Machine) -> None:
    files = ("small/__init__.py", "small.pth", "small-1.0.dist-info/METADATA", "../../../share/small.txt")
    edits = "; ".join([append(file, machine.trace) for file in files]).replace("; with", "\n    with")
    in_python = f"import sys, pathlib\n{edits}".replace("\n    ", "\n")
    machine.build(
        edits,
        requires=("small",),
        in_first_hook=edits,
        before=(f"python -c {shlex.quote(in_python)}",),
        further=("small",),
    )
    assert machine.trace.exists()  # its own interpreters run it
    machine.trace.unlink()
    for path, content in cache(machine).items():
        assert b"touch" not in content, path
    machine.build("import small; assert small.value == 1", requires=("small",))
    assert not machine.trace.exists()


def test_what_a_back_end_asks_for_is_no_option_of_uv(machine: Machine) -> None:
    with pytest.raises(BuildError):
        machine.build(further=("--target=planted", "small"))
    assert not list(machine.folder.rglob("planted"))


@pytest.mark.parametrize("when", ["in_first_hook", "in_build"])
def test_an_edit_of_a_large_package_fails_the_build_and_reaches_no_other(machine: Machine, when: str) -> None:
    edit = append("large/__init__.py", machine.trace)
    with pytest.raises(BuildError, match=r"edited in place: large/__init__\.py") as caught:
        machine.build(
            edit if when == "in_build" else "pass",
            in_first_hook=edit if when == "in_first_hook" else "pass",
            requires=("small", "large"),
            further=("small",),
        )
    assert JOB.id in caught.value.what
    # Releases that the store had are looked for anew.
    assert not machine.store.has(JOB.variant.release, JOB.python)
    machine.build(f"{IMPORT_ALL}; assert large.value == 1", requires=("small", "large"))
    assert not machine.trace.exists()


def test_a_build_that_fails_after_an_edit_leaves_nothing_of_it(machine: Machine) -> None:
    statement = append("large/__init__.py", machine.trace) + "\n    raise SystemExit(1)"
    with pytest.raises(BuildError):
        machine.build(statement, requires=("large",))
    machine.build("import large", requires=("large",))
    assert not machine.trace.exists()


@pytest.mark.parametrize(
    "edit",
    [
        "os.chmod(file, 0o755)",
        "os.truncate(file, 0)",
        "os.utime(file, (0, 0))",
        "os.unlink(file); (file.parent / 'weights').open('r+b').write(b'2')",
    ],
)
def test_every_kind_of_edit_in_place_counts(machine: Machine, edit: str) -> None:
    with pytest.raises(BuildError, match="edited in place: large/"):
        machine.build(f"file = {SITE_PACKAGES} / 'large/__init__.py'; {edit}", requires=("large",))


def test_files_that_are_replaced_are_no_edit(machine: Machine) -> None:
    """As Python itself and most editors write: a new file takes the name, and the store keeps the old one."""
    machine.build(requires=("large",))
    before = cache(machine)
    new = f"file = {SITE_PACKAGES} / 'large/__init__.py'; file.with_suffix('.new').write_text('value = 2')"
    machine.build(f"{new}; file.with_suffix('.new').replace(file); import large; assert large.value == 2",
                  requires=("large",))  # fmt: skip
    assert cache(machine) == before


def installed(machine: Machine, name: str, *packages: str) -> Path:
    """An environment with packages, of the farm's making."""
    home = machine.store.environment(name)
    with machine.engine.site(JOB, machine.shell) as site:
        assert site.install(home, *packages).ok
    return home


def file_in(home: Path, name: str) -> Path:
    (path,) = home.glob(f"lib/python*/site-packages/{name}")
    return path


def test_an_edit_that_a_killed_farm_left_is_found_before_it_is_used(machine: Machine) -> None:
    home = installed(machine, "killed", "large")
    share(machine.store, home, "job", machine.log)
    file_in(home, "large/__init__.py").write_text("value = 2")
    home = installed(machine, "next", "large")
    with pytest.raises(BuildError, match=r"edited in place: large/__init__\.py") as caught:
        share(machine.store, home, "job", machine.log)
    assert "before" in caught.value.where
    home = installed(machine, "later", "large")
    share(machine.store, home, "job", machine.log).compare()
    assert file_in(home, "large/__init__.py").read_text() == "value = 1\n"
    assert not list(machine.store.uv_cache.glob("archive-v*/.edited-*")), "gigabytes that nobody would remove"


def test_a_copy_of_the_store_is_no_edit(machine: Machine) -> None:
    """As a backup or a CI system's cache brings it back: every file has another inode, and is shared as before."""
    share(machine.store, installed(machine, "one", "large"), "job", machine.log)
    copy = machine.folder / "copy"
    shutil.copytree(machine.store.root, copy, symlinks=True)
    shutil.rmtree(machine.store.root)
    copy.rename(machine.store.root)
    home = installed(machine, "next", "large")
    share(machine.store, home, "job", machine.log).compare()
    assert file_in(home, "large/weights").stat().st_nlink > 1


def test_a_note_that_is_cut_short_is_written_anew(machine: Machine) -> None:
    home = installed(machine, "home", "large")
    share(machine.store, home, "job", machine.log)
    (note,) = (machine.store.root / "linked").iterdir()
    whole = note.read_bytes()
    for length in (0, len(whole) - 1, len(whole) - 60):
        note.write_bytes(whole[:length])
        share(machine.store, home, "job", machine.log).compare()
        assert note.read_bytes() == whole


def test_an_edit_by_a_job_beside_fails_both(machine: Machine) -> None:
    homes = [installed(machine, name, "large") for name in ("one", "other")]
    jobs = [share(machine.store, home, home.name, machine.log) for home in homes]
    file_in(homes[0], "large/__init__.py").write_text("value = 2")
    for shared in jobs:
        with pytest.raises(BuildError, match="edited in place"):
            shared.compare()


def test_only_large_files_are_shared(machine: Machine) -> None:
    home = installed(machine, "home", "small", "large")
    own = file_in(home, "small/__init__.py")
    own.chmod(0o755)
    share(machine.store, home, "job", machine.log)
    assert file_in(home, "large/weights").stat().st_nlink > 1
    assert own.stat().st_nlink == 1
    (cached,) = machine.store.uv_cache.glob("archive-v*/*/small/__init__.py")
    assert (own.stat().st_mtime_ns, own.stat().st_mode) == (cached.stat().st_mtime_ns, cached.stat().st_mode)
    assert not list(home.rglob("*.own"))


def test_links_in_an_environment_stay_links(machine: Machine) -> None:
    """Also one to a file with further names, as interpreters have them, and one that leads nowhere."""
    home = installed(machine, "home", "small")
    (machine.folder / "python").touch()
    (machine.folder / "python3").hardlink_to(machine.folder / "python")
    targets = {"python-here": machine.folder / "python", "nowhere": machine.folder / "nothing"}
    for name, target in targets.items():
        (home / "bin" / name).symlink_to(target)
    share(machine.store, home, "job", machine.log)
    assert {name: (home / "bin" / name).readlink() for name in targets} == targets


# ---- what foreign code learns of the store


def test_foreign_code_has_folders_of_its_own(machine: Machine) -> None:
    report = machine.folder / "variables"
    machine.build(f"pathlib.Path({str(report)!r}).write_text(repr(dict(os.environ)))")
    variables = eval(report.read_text())
    assert "UV_CACHE_DIR" not in variables
    scratch = str(machine.folder / "project1" / "scratch")
    assert variables["TMPDIR"].startswith(scratch)
    assert variables["XDG_CACHE_HOME"].startswith(scratch)


def test_uv_called_by_a_build_leaves_the_stores_cache_alone(machine: Machine) -> None:
    machine.build(requires=("small",))
    before = cache(machine)
    write_package(machine.index, "other", {"other.py": b""})
    machine.build("import other", before=("uv pip install other",))
    assert cache(machine) == before


def test_foreign_code_beside_a_build_has_folders_of_its_own(machine: Machine) -> None:
    home = installed(machine, "home", "small", "large")
    code = "import os; print([os.environ.get('UV_CACHE_DIR'), os.getcwd(), os.environ['TMPDIR']])"
    with machine.engine.site(JOB, machine.shell) as site, site.foreign(home) as shell:
        done = shell.run(home / "bin" / "python", "-I", "-c", code)
    cache_folder, current, temporary = eval(done.last_line)
    assert cache_folder is None
    assert Path(current).is_relative_to(home)
    assert Path(temporary).is_relative_to(home)


def test_a_package_may_install_any_name_into_an_environment(machine: Machine) -> None:
    write_package(machine.index, "cluttered", {"cluttered-1.0.data/data/scratch": b"data", "cluttered.py": b""})
    home = installed(machine, "home", "cluttered")
    with machine.engine.site(JOB, machine.shell) as site, site.foreign(home) as shell:
        assert shell.run(home / "bin" / "python", "-I", "-c", "import cluttered").ok


def test_a_test_that_edits_torch_fails(machine: Machine) -> None:
    home = installed(machine, "home", "large")
    command = f"echo 'value = 2' >> {file_in(home, 'large/__init__.py')}"
    in_place = pytest.raises(BuildError, match="edited in place")
    with machine.engine.site(JOB, machine.shell) as site, in_place, site.foreign(home) as shell:
        assert shell.run("sh", "-c", command).ok


def test_ccaches_results_reach_their_own_project_alone(machine: Machine) -> None:
    project = machine.engine.project
    other_name = replace(project, settings=replace(project.settings, name="other"))
    other_source = replace(project, settings=replace(project.settings, git="https://example.org/other.git"))
    other_place = replace(project, root=machine.folder)
    projects = (project, other_name, other_source, other_place)
    folders = {ccache_of(each, machine.store, engine) for each in projects for engine in ("docker", "local")}
    assert len(folders) == 8
    assert ccache_of(project, machine.store, "local") in folders


# ---- what the host reads of a build


@pytest.mark.parametrize("name", ["peak", "asked", ".ninja_log"])
def test_a_link_that_a_build_planted_for_the_host(machine: Machine, name: str) -> None:
    victim = machine.folder / "victim"
    victim.write_text("important")
    machine.build(f"(out / {name!r}).symlink_to({str(victim)!r})")
    assert victim.read_text() == "important"
    assert (machine.folder / "project1" / "out" / "peak").read_text().isdigit()


def test_a_folder_for_the_wheel_that_is_a_link(machine: Machine) -> None:
    victim = machine.folder / "victim"
    victim.mkdir()
    (victim / "peak").write_text("important")
    with pytest.raises(BuildError, match="a link in place of the folder for its wheel"):
        machine.build(f"out.rename({str(machine.folder / 'moved')!r}); out.symlink_to({str(victim)!r})")
    assert {path.name: path.read_text() for path in victim.iterdir()} == {"peak": "important"}


def test_a_wheel_that_is_a_link(machine: Machine) -> None:
    (machine.folder / "secret").write_text("important")
    with pytest.raises((UnsafeNameError, BuildError), match=r"a link"):
        machine.build(f"(out / name).unlink(); (out / name).symlink_to({str(machine.folder / 'secret')!r})")


@pytest.mark.parametrize("name", ["../other.whl", "/etc/hostname", "a/../../b"])
def test_a_wheel_elsewhere(machine: Machine, name: str) -> None:
    with pytest.raises((UnsafeNameError, BuildError)):
        machine.build(f"name = {name!r}")


@pytest.mark.parametrize("name", [None, 5, "ghost.whl"])
def test_a_back_end_that_names_no_wheel(machine: Machine, name: object) -> None:
    with pytest.raises(BuildError, match=f"{JOB.id}: the back end (does not say how its wheel|made no 'ghost.whl')"):
        machine.build(f"name = {name!r}")


# ---- compiled modules of torch


@pytest.fixture
def torch(machine: Machine) -> Machine:
    files = {"torch/__init__.py": b"from torch import version\n", "torch/version.py": b"value = 1\n"}
    write_package(machine.index, "torch", {**files, "torch/weights": b"1" * LARGE}, "2.9.1")
    return machine


def use_torch(machine: Machine, code: str) -> str:
    """Run foreign code in an environment with torch, as a smoke test does; returns its last line."""
    home = installed(machine, "home", "torch")
    with machine.engine.site(JOB, machine.shell) as site:
        torch_bytecode.put(site, home, JOB.python)
        with site.foreign(home) as shell:
            return shell.run(home / "bin" / "python", "-I", "-c", code).last_line


BYTECODE = "import sys, torch.version as v, pathlib; file = pathlib.Path(v.__cached__)"


def test_bytecode_is_made_once_and_used(torch: Machine) -> None:
    code = "import os, torch.version as v; print(os.stat(v.__cached__).st_nlink)"
    assert int(use_torch(torch, code)) > 1
    assert "import torch" in torch.log.read_text()
    torch.log.unlink()
    assert int(use_torch(torch, code)) > 1
    assert "'import torch'" not in torch.log.read_text()


@pytest.mark.parametrize(
    "write",
    [
        "file.with_name('more.pyc').write_bytes(poison); file.unlink(); file.write_bytes(poison)",
        "file.chmod(0o644); file.open('r+b').write(poison)",
    ],
)
def test_bytecode_that_foreign_code_left_runs_nowhere_else(torch: Machine, write: str) -> None:
    poison = (
        f"{BYTECODE}; import importlib._bootstrap_external as b, os; s = os.stat(v.__file__); "
        f"code = compile({LEAVE_A_TRACE.format(trace=str(torch.trace))!r}, 'x', 'exec'); "
        "poison = bytes(b._code_to_timestamp_pyc(code, int(s.st_mtime), s.st_size)); "
    )
    # An edit in place fails the job. Files of its own it may have.
    in_place = pytest.raises(BuildError, match="edited in place: __pycache__/version")
    with in_place if "r+b" in write else contextlib.nullcontext():
        use_torch(torch, poison + write)
    assert use_torch(torch, "import torch.version; print(torch.version.value)") == "1"
    assert not torch.trace.exists()


def test_a_link_among_torchs_bytecode_leads_nowhere(machine: Machine) -> None:
    victim = machine.folder / "victim"
    victim.touch(mode=0o640)
    plant = f"import os, sys\nos.path.lexists(file := __cached__ + '.pyc') or os.symlink({str(victim)!r}, file)\n"
    files = {"torch/__init__.py": plant.encode(), "torch/version.py": b"", "torch/weights": b"1" * LARGE}
    write_package(machine.index, "torch", files, "2.9.1")
    use_torch(machine, "pass")
    assert list(machine.store.bytecode.rglob("*.pyc"))
    assert victim.stat().st_mode & 0o777 == 0o640


def test_bytecode_of_a_package_that_was_edited_goes_with_it(torch: Machine) -> None:
    with pytest.raises(FarmError, match=r"edited in place: torch/version\.py"):
        use_torch(torch, f"{BYTECODE}; open(v.__file__, 'a').write('value = 2')")
    assert not list(torch.store.bytecode.glob("*/*"))
    assert use_torch(torch, "import torch.version; print(torch.version.value)") == "1"
    assert list(torch.store.bytecode.glob("*/*"))
