"""What users get is installed and compared, and imported where no credential is in reach."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import family
from tests.conftest import Answer, need
from tests.index import Index
from tests.publish import spy
from tests.release import Release, with_members
from tests.wheels.test_driver import linked
from torch_build_farm.core import tools
from torch_build_farm.core.errors import NoPythonError
from torch_build_farm.core.machine import X86_64
from torch_build_farm.core.package_index import PackageIndex
from torch_build_farm.core.process import Runner, Shell
from torch_build_farm.engines import isolation
from torch_build_farm.engines.shared_files import LARGE
from torch_build_farm.publish import install_check, published_list
from torch_build_farm.wheels import driver

Call = Callable[..., Answer]

_ADD_KEY, _SESSION = 248, -3  # add_key(2)
_IPC_CREAT, _IPC_RMID = 0o1000, 0  # shmget(2), shmctl(2)


def need_name_spaces() -> None:
    """Skip where the machine gives this user no name spaces, as in a container without privileges."""
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    words = ["unshare", "--mount", "--pid", "--net", "--fork", *user, "true"]
    need(shutil.which("unshare") is not None, "util-linux")
    need(subprocess.run(words, capture_output=True, check=False).returncode == 0, "name spaces")


def test_what_was_published_is_installed_and_imported(release: Release, index: Index) -> None:
    release.published(index, release.variant("2.9"))
    answer = release.farm()("check", index.url, "--index-url", index.url, "--json")
    assert answer.code == 0, answer.err
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert answer.document["installed"] == {"demo[torch29]==1.0": python}
    assert "demo[torch29]==1.0, imports" in answer.err


def test_a_version_that_is_none(call: Call, index: Index) -> None:
    answer = call("check", index.url, "one", "--index-url", index.url)
    assert answer.code == 2, answer.err
    assert "one is not a version" in answer.err


class Secrets:
    """Credentials in every place that a process can have them in, each with spy.MARK in it."""

    def __init__(self, folder: Path) -> None:
        home = folder / "home"
        home.mkdir()
        for name in (".pypirc", ".netrc"):
            (home / name).write_text(f"password = file-{spy.MARK}\n")
        self.variables = {
            "HOME": str(home), "TWINE_PASSWORD": f"pypi-{spy.MARK}", "ACTIONS_ID_TOKEN_REQUEST_TOKEN": f"identity-{spy.MARK}",
            "ACTIONS_ID_TOKEN_REQUEST_URL": f"https://identity.example/{spy.MARK}", "UV_INDEX_TARGET_PASSWORD": f"index-{spy.MARK}",
            "DBUS_SESSION_BUS_ADDRESS": f"unix:abstract={spy.MARK}",
        }  # fmt: skip
        self.sockets = [socket.socket(socket.AF_UNIX), socket.socket()]
        self.sockets[0].bind(f"\0bus-{spy.MARK}")
        self.sockets[0].listen()
        self.sockets[1].bind(("127.0.0.1", 0))
        self.sockets[1].listen()
        threading.Thread(target=self._answer, daemon=True).start()
        text = f"key-{spy.MARK}".encode()
        self.libc = ctypes.CDLL(None)
        # Its name is no secret: every process of a user sees the names of the user's keys (/proc/keys).
        self.libc.syscall(_ADD_KEY, b"user", b"maintainer", text, len(text), _SESSION)
        self.shared = self.libc.shmget(0, 4096, _IPC_CREAT | 0o666)
        self.libc.shmat.restype = ctypes.c_void_p
        address = self.libc.shmat(self.shared, None, 0)
        assert address != ctypes.c_void_p(-1).value, "System V shared memory"
        ctypes.memmove(address, f"shared-{spy.MARK}".encode(), len(f"shared-{spy.MARK}"))
        self.libc.shmdt(ctypes.c_void_p(address))

    @property
    def port(self) -> int:
        return int(self.sockets[1].getsockname()[1])

    def _answer(self) -> None:
        while True:
            try:
                connection, _ = self.sockets[1].accept()
            except OSError:
                return
            with connection:
                connection.sendall(f"agent-{spy.MARK}".encode())

    def close(self) -> None:
        self.libc.shmctl(self.shared, _IPC_RMID, None)
        for each in self.sockets:
            each.shutdown(socket.SHUT_RDWR)
            each.close()


@pytest.fixture
def secrets(tmp_path: Path) -> Iterator[Secrets]:
    made = Secrets(tmp_path)
    yield made
    made.close()


def test_a_package_that_looks_for_credentials_sees_none(
    release: Release, index: Index, secrets: Secrets, tmp_path: Path
) -> None:
    need_name_spaces()
    code = spy.source(str(tmp_path), [secrets.port])
    outside = tmp_path / "outside"
    outside.mkdir()
    # On import and at an interpreter's start; and it says where that interpreter's home is.
    variant = with_members(
        release.variant("2.8", files={"demo/__init__.py": code}),
        {
            # Inside there is no such folder.
            "spy.pth": f"import os; os.path.isdir('{outside}') and open('{outside}/ran', 'w').close()\n",
            "demo_torch28-1.0.data/data/pyvenv.cfg": f"home = {tmp_path}/home/bin\n",
        },
    )
    release.published(index, variant)
    farm = release.farm(**secrets.variables)
    answer = farm("check", index.url, "--index-url", index.url)
    log = (farm.work / "logs" / "publish.log").read_text()
    # The first process of a name space, or the second under bubblewrap's own.
    assert re.search(r"^looked as \d+ pid [12]$", log, re.MULTILINE), answer.err
    assert "SEEN" not in log, log
    assert not (outside / "ran").exists()


@pytest.fixture
def without_name_spaces(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine with neither bubblewrap nor unshare."""
    monkeypatch.setitem(isolation._ENVIRONMENT, "PATH", str(tmp_path / "nothing"))


@pytest.fixture
def without_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, str]:
    """A process that has none; the variables for `call`."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in list(os.environ):
        if install_check._SECRET.search(name):
            monkeypatch.delenv(name)
    return {"TWINE_USERNAME": "", "TWINE_PASSWORD": ""}


@pytest.mark.usefixtures("without_name_spaces")
def test_check_imports_beside_itself_only_without_credentials(
    release: Release, index: Index, call: Call, without_credentials: dict[str, str], tmp_path: Path
) -> None:
    code = "import os; print('variables', sorted(os.environ))\n"
    release.published(index, release.variant("2.8", files={"demo/__init__.py": code}))
    words = ("check", index.url, "--index-url", index.url)
    answer = call(*words)
    assert answer.code == 24, answer.out
    assert "its import would see the variable TWINE_PASSWORD" in answer.err

    (tmp_path / ".pypirc").touch()
    assert "its import would see the file ~/.pypirc" in call(*words, **without_credentials).err
    (tmp_path / ".pypirc").unlink()
    answer = call(*words, **without_credentials)
    assert answer.code == 0, answer.err
    log = (release.folder / "work" / "logs" / "publish.log").read_text()
    (line,) = [line for line in log.splitlines() if line.startswith("variables")]
    assert line == "variables ['HOME', 'LANG', 'PATH', 'PYTHONDONTWRITEBYTECODE']"


@pytest.mark.usefixtures("without_name_spaces")
@pytest.mark.parametrize(
    ("end", "said"), [("", "edited in place: demo/_torch28/weights"), ("raise ImportError('x')", "import demo fails")]
)
def test_an_import_that_edits_what_environments_share(
    release: Release, index: Index, call: Call, without_credentials: dict[str, str], end: str, said: str
) -> None:
    """Whatever its end: the next project that installs the package gets it as it was published."""
    edit = "import pathlib\nwith open(pathlib.Path(__file__).with_name('weights'), 'r+b') as file: file.write(b'2')\n"
    files: dict[str, str | bytes] = {"demo/__init__.py": edit + end, "demo/weights": b"1" * LARGE}
    release.published(index, release.variant("2.8", files=files))
    answer = call("check", index.url, "--index-url", index.url, **without_credentials)
    assert answer.code != 0, answer.out
    assert said in answer.err
    assert not list(release.store.glob("**/archive-v*/*/demo/_torch28/weights"))


def test_a_published_package_that_does_not_import(release: Release, index: Index, call: Call) -> None:
    need_name_spaces()
    release.published(index, release.variant("2.8", files={"demo/__init__.py": "raise ImportError('no driver')\n"}))
    answer = call("check", index.url, "--index-url", index.url)
    assert answer.code == 24, answer.out
    assert "demo[torch28]==1.0: import demo fails: ImportError: no driver" in answer.err


def test_no_interpreter_here_can_install_the_release(
    release: Release, index: Index, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    variant, *_ = release.published(index, release.variant("2.8"))
    monkeypatch.setattr(install_check, "find_interpreters", lambda _: {})
    answer = call("check", index.url, "--index-url", index.url)
    assert answer.code == NoPythonError.exit_code, answer.out
    assert "no CPython here can install demo-torch28" in answer.err
    assert variant.name in answer.err


@pytest.mark.parametrize(
    ("variable", "counts"),
    [
        ("TWINE_USERNAME", True), ("ACTIONS_ID_TOKEN_REQUEST_URL", True), ("GH_TOKEN", True), ("AWS_SECRET_ACCESS_KEY", True),
        ("UV_INDEX_MINE_PASSWORD", True), ("CI_JOB_JWT", True), ("SSH_AUTH_SOCK", True), ("PATH", False), ("KEYBOARD", False),
        ("GITHUB_WORKSPACE", False), ("RUNNER_TEMP", False),
    ],
)  # fmt: skip
def test_variables_that_may_be_credentials(variable: str, counts: bool) -> None:
    assert bool(install_check._SECRET.search(variable)) == counts


@pytest.mark.parametrize("user", ["me:word@", "token@", ":word@", ""])
def test_an_index_url_that_may_have_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, user: str) -> None:
    for name in list(os.environ):
        if install_check._SECRET.search(name):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    found = install_check.credentials_in_reach(PackageIndex(f"https://{user}index.example/simple/"))
    assert found == (["the index's URL"] if user else [])
    (tmp_path / ".netrc").touch()
    assert "the file ~/.netrc" in install_check.credentials_in_reach(PackageIndex())


def published_again(call: Call, index: Index) -> Answer:
    """`publish --yes` of files that are all on the index: nothing is uploaded, and what users get is checked."""
    return call("publish", index.url, "--index-url", index.url, "--yes", "--json")


def test_publish_imports_apart_from_itself(release: Release, index: Index, call: Call) -> None:
    need_name_spaces()
    code = "import os; print('looked as', os.getuid(), os.getppid(), sorted(os.environ))\n"
    release.published(index, release.proven(release.variant("2.8", files={"demo/__init__.py": code})))
    (release.project.root / "published.json").unlink()
    answer = published_again(call, index)
    assert answer.code == 0, answer.err
    assert "demo[torch28]==1.0, imports" in answer.err
    log = (release.folder / "work" / "logs" / "publish.log").read_text()
    user = "65534" if os.geteuid() == 0 else r"\d+"
    variables = re.escape("['HOME', 'LANG', 'PATH', 'PWD', 'PYTHONDONTWRITEBYTECODE']")
    assert re.search(rf"^looked as {user} [01] {variables}$", log, re.MULTILINE), log
    assert "TWINE" not in log
    # What was found on the index with the bytes that were built here is in the list, in both places.
    for folder in (release.project.root, release.folder / "work"):
        assert len(published_list.read(folder).files) == 4


@pytest.mark.usefixtures("without_name_spaces")
def test_publish_checks_the_minors_that_it_publishes(release: Release, index: Index, call: Call) -> None:
    """The others were checked when they were published, and each takes a torch."""
    earlier, new = (release.proven(release.variant(minor)) for minor in ("2.8", "2.9"))
    release.published(index, earlier, new)
    earlier.unlink()
    answer = published_again(call, index)
    assert answer.code == 0, answer.err
    (warning,) = answer.document["warnings"]
    assert warning.startswith("demo[torch29]==1.0 was not imported")


@pytest.mark.usefixtures("without_name_spaces")
def test_publish_leaves_an_import_that_it_cannot_isolate_to_check(release: Release, index: Index, call: Call) -> None:
    code = "print('imported')\n"
    release.published(index, release.proven(release.variant("2.8", files={"demo/__init__.py": code})))
    answer = published_again(call, index)
    assert answer.code == 0, answer.err
    (warning,) = answer.document["warnings"]
    assert warning.startswith("demo[torch28]==1.0 was not imported: this process holds credentials")
    assert f"torch-build-farm check {index.url}" in warning
    assert "\nimported" not in (release.folder / "work" / "logs" / "publish.log").read_text()


def test_a_link_on_the_way_to_the_interpreter(tmp_path: Path) -> None:
    """The isolated root has the links that lead to an interpreter, and nothing beside them."""
    (tmp_path / "real" / "bin").mkdir(parents=True)
    (tmp_path / "real" / "bin" / "python3").touch()
    (tmp_path / "named").symlink_to("real")
    (tmp_path / "python").symlink_to(tmp_path / "named" / "bin" / "python3")
    assert isolation._links_to(tmp_path / "python") == [tmp_path / "python", tmp_path / "named"]
    (tmp_path / "circle").symlink_to("circle")
    assert len(isolation._links_to(tmp_path / "circle")) == isolation._MAX_LINKS


def test_an_interpreter_that_is_a_link_into_another_folder(tmp_path: Path) -> None:
    """As in ~/.local/bin, or where a workflow puts several interpreters on PATH: the library is not beside the link."""
    need_name_spaces()
    (tmp_path / "scripts").mkdir()
    interpreter = tmp_path / "scripts" / "python3"
    interpreter.symlink_to(Path(sys.executable).resolve())
    environment = tmp_path / "env"
    subprocess.run([tools.uv(), "venv", "--quiet", "--python", interpreter, environment], check=True)
    (tmp_path / "root").mkdir()
    shell = Shell(Runner(), {}, tmp_path, tmp_path / "log", lambda _: None)
    apart = isolation.Isolation.of(environment, tmp_path / "root", shell)
    done = apart.run(environment / "bin" / "python", "-I", "-c", "import json; print('runs')")
    assert done.last_line == "runs", done.tail


@pytest.mark.parametrize(
    ("user", "tools_here", "used"),
    [(0, ("unshare", "bwrap"), "unshare"), (1000, ("unshare", "bwrap"), "bwrap"), (1000, ("unshare",), "unshare")],
)
def test_which_tool_isolates(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, user: int, tools_here: tuple[str, ...], used: str
) -> None:
    """bubblewrap where it is installed, and never for root, whom it leaves root."""
    for name in tools_here:
        (tmp_path / name).write_text(f"#!/bin/sh\necho {name}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setitem(isolation._ENVIRONMENT, "PATH", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: user)
    shell = Shell(Runner(), {}, tmp_path, tmp_path / "log", lambda _: None)
    assert isolation.Isolation((), tmp_path, shell).run("true").last_line == used


def test_who_is_not_root_gets_a_user_name_space(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whose only user is the caller."""
    need_name_spaces()
    user = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(isolation, "_uses_unshare", lambda: True)
    (tmp_path / "root").mkdir()
    shell = Shell(Runner(), {}, tmp_path, tmp_path / "log", lambda _: None)
    done = isolation.Isolation((), tmp_path / "root", shell).run("/bin/cat", "/proc/self/uid_map")
    assert done.last_line.split() == ["0", str(user), "1"], done.tail


def test_an_interpreter_in_the_home_folder_itself(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With its folder the package would see all of the home folder."""
    environment = tmp_path / "env"
    (environment / "bin").mkdir(parents=True)
    (environment / "pyvenv.cfg").write_text(f"home = {tmp_path}/home/bin\n")
    (environment / "bin" / "python").symlink_to(tmp_path / "home" / "bin" / "python3")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    shell = Shell(Runner(), {}, tmp_path, tmp_path / "log", lambda _: None)
    apart = isolation.Isolation.of(environment, tmp_path / "root", shell)
    assert apart.why_not() == f"the interpreter lies in {tmp_path}/home, with the files that are to be hidden"


def test_stubs_stand_in_for_the_driver_that_is_not_here(tmp_path: Path) -> None:
    (tmp_path / "libcuda.so").write_bytes(driver.link_stub(X86_64))
    source = "int cuInit(unsigned); int initialize(void) { return cuInit(0); }"
    library = linked(tmp_path, source, f"-L{tmp_path}", "-lcuda", "-Wl,-z,now")
    environment = tmp_path / "env"
    package = environment / "lib" / "python3.12" / "site-packages" / "demo" / "_torch29"
    package.mkdir(parents=True)
    installed = library.rename(package / "_core.so")
    own = family.project("demo")

    assert install_check._beside_driver(own, environment, lambda _: True) == []
    words = install_check._beside_driver(own, environment, lambda _: False)
    code = f"import ctypes; print(ctypes.CDLL({str(installed)!r}).initialize())"
    done = subprocess.run([*words, sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "34\n", done.stderr
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode != 0


def stable(release: Release) -> None:
    path = release.project.root / "pyproject.toml"
    path.write_text(path.read_text() + 'stable-abi = "2.9"\n')


def test_a_stable_wheel_is_installed_with_the_oldest_torch_and_with_the_newest(release: Release, index: Index) -> None:
    stable(release)
    release.published(index, release.variant("2.8"), release.variant("2.9"))
    answer = release.farm()("check", index.url, "--index-url", index.url, "--json")
    assert answer.code == 0, answer.err
    assert list(answer.document["installed"]) == ["demo[torch28]==1.0", "demo[torch29]==1.0", "demo[torch215]==1.0"]


def test_a_stable_wheel_is_published_before_what_leads_to_it(release: Release, index: Index, call: Call) -> None:
    stable(release)
    release.proven(release.variant("2.8"))
    release.proven(release.variant("2.9"))
    answer = call("publish", index.url, "--index-url", index.url, "--json")
    assert answer.code == 0, answer.err
    assert [file["name"] for file in answer.document["files"]] == [
        "demo-torch28", "demo-torch-stable", "demo-select", "demo-select", "demo-auto", "demo",
    ]  # fmt: skip
    assert "demo-torch-stable" in str(answer.document["waves"])
