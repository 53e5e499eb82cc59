"""What users get is installed and compared, and imported where no credential is in reach."""

from __future__ import annotations

import ctypes
import shutil
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import need
from tests.index import Index
from tests.publish import spy
from tests.release import Release, with_members

_ADD_KEY, _SESSION = 248, -3  # add_key(2)


def test_what_was_published_is_installed_and_imported(release: Release, index: Index) -> None:
    release.published(index, release.variant("2.9"))
    answer = release.farm()("check", index.url, "--index-url", index.url, "--json")
    assert answer.code == 0, answer.err
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert answer.document["installed"] == {"demo[torch29]==1.0": python}
    assert "demo[torch29]==1.0, imports" in answer.err


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
        self.libc.syscall(_ADD_KEY, b"user", text, text, len(text), _SESSION)

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
    need(shutil.which("unshare") is not None, "util-linux")
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
    assert "looked as" in log, answer.err
    assert "SEEN" not in log, log
    assert not (outside / "ran").exists()
