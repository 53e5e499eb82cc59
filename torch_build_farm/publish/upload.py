"""Uploads with twine, one file at a time, each seen on the index with the same bytes before the next."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from torch_build_farm.core.errors import FarmError, PackageIndexError, PublishError, UploadRefusedError
from torch_build_farm.core.package_index import PackageIndex
from torch_build_farm.core.process import Runner, Shell
from torch_build_farm.core.urls import public
from torch_build_farm.publish.upload_plan import Item, digest_of

_TRIES = 6
_FIRST_PAUSE_S = 1.0  # doubled after every try
_VISIBLE_S = 300.0  # indexes answer from caches
_BUSY = {408, 425, 429}


@dataclass(frozen=True)
class Target:
    """Where to publish: twine's options for it (`words`), and the index on which the files then appear.

    `secrets` are variables for twine alone: neither logs nor process lists show them.
    """

    name: str
    words: tuple[str, ...]
    index: PackageIndex
    secrets: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, text: str, index_url: str = "") -> Target:
        """`text` is pypi, testpypi or the URL for uploads; `index_url` is where it lists its files.

        By default that is the URL with /legacy/ replaced by /simple/ (the upload API that twine speaks), else with
        simple/ added. Raises PublishError for anything else.
        """
        from twine.utils import TEST_REPOSITORY  # noqa: PLC0415 (slow to import)

        if text == "pypi":
            return cls(text, ("--repository", "pypi"), PackageIndex(index_url))
        if text == "testpypi":
            return cls(text, ("--repository", text), PackageIndex(index_url or _listing(TEST_REPOSITORY)))
        parts = urlsplit(text)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise PublishError(
                f"{text} is not a package index", where="--publish", next_step="pypi, testpypi, or its upload URL"
            )
        given = {"TWINE_USERNAME": parts.username, "TWINE_PASSWORD": parts.password}
        secrets = tuple((name, unquote(value)) for name, value in given.items() if value)
        url = public(text)
        return cls(url, ("--repository-url", url), PackageIndex(index_url or _listing(text)), secrets)


def _listing(url: str) -> str:
    return re.sub(r"/legacy/?$", "/simple/", url) if re.search(r"/legacy/?$", url) else f"{url.rstrip('/')}/simple/"


def shell_for(target: Target, runner: Runner, work: Path) -> Shell:
    """Where twine runs: with the caller's environment, since credentials and CI's identity are found in many places."""
    log = work / "logs" / "publish.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    env = {**os.environ, **dict(target.secrets), "NO_COLOR": "1", "PYTHONUNBUFFERED": "1"}
    return Shell(runner, env, work, log, lambda _: None)


def check(paths: list[Path], shell: Shell) -> None:
    """Let twine check the files. Raises PublishError."""
    done = shell.run(sys.executable, "-I", "-m", "twine", "check", *paths)
    if not done.ok:
        reasons = "; ".join(line.strip() for line in done.tail if "ERROR" in line or "FAILED" in line)
        raise PublishError(f"twine check refuses a file: {reasons}", where=str(shell.log))


def upload(item: Item, target: Target, shell: Shell, known: bool) -> None:
    """Upload one file, however busy the index is, and wait until it appears. `known`: the index has the name already.

    Raises UploadRefusedError or PublishError.
    """
    command = ("twine", "upload", "--non-interactive", "--disable-progress-bar", *target.words)
    pause = _FIRST_PAUSE_S
    for trial in range(_TRIES):
        done = shell.run(sys.executable, "-I", "-m", *command, item.path)
        # An upload whose answer got lost has arrived all the same.
        if done.ok or _published(item, target.index):
            break
        text = "\n".join(done.tail)
        match = re.search(r"HTTPError: (\d{3}) (.*)", text)
        status = int(match[1]) if match else 0
        no_credentials = re.search(r"TrustedPublishingFailure[\s\S]*|NonInteractive: Credential.*", text)
        if no_credentials:
            raise _no_publisher(item, target, no_credentials[0])
        if match and not (status >= 500 or status in _BUSY):
            raise _refused(item, target, status, text, known)
        if trial == _TRIES - 1 or not (match or _unreachable(text)):
            last_line = next((line for line in reversed(done.tail) if line.strip()), "twine printed nothing")
            raise PublishError(
                f"{item.path.name} cannot be uploaded: {last_line}",
                where=str(shell.log),
                next_step="run the same command again: what the index has is not uploaded twice",
            )
        shell.say(f"the index is busy ({status or 'no answer'}): trying again in {pause:.0f} s")
        shell.runner.pause(pause)
        pause *= 2
    _wait(item, target.index, shell.runner)


def _unreachable(text: str) -> bool:
    return any(
        word in text for word in ("ConnectionError", "Timeout", "RemoteDisconnected", "ProtocolError", "SSLError")
    )


def _published(item: Item, index: PackageIndex) -> bool:
    """Whether the index has the file by now. Raises PublishError where the index has other bytes under its name."""
    try:
        file = next((file for file in index.files(item.name) if file.filename == item.path.name), None)
        if file is None:
            return False
        published_digest = digest_of(file, index, item.path.parent)
    except PackageIndexError:
        return False  # busy, or between two states: the caller tries again
    if published_digest != item.sha256:
        raise PublishError(
            f"the index serves another {item.path.name} than was uploaded",
            where=f"sha256 here {item.sha256}, there {published_digest}",
            next_step="find out who published it before anything else",
        )
    return True


def _wait(item: Item, index: PackageIndex, runner: Runner) -> None:
    """Wait until the index has the file. Raises PublishError after _VISIBLE_S seconds."""
    waited, pause = 0.0, 0.2
    while not _published(item, index):
        if waited > _VISIBLE_S:
            raise PublishError(
                f"{item.path.name} was uploaded and does not appear on the index",
                where=public(index.url) or "the default index",
                next_step="name where it lists its files with --index-url, or run again later",
            )
        runner.pause(pause)
        waited, pause = waited + pause, min(pause * 2, 10)


def _no_publisher(item: Item, target: Target, text: str) -> FarmError:
    reason = " ".join(re.sub(r"\x1b\[[\d;]*m", "", text).split())  # without colours, on one line
    return UploadRefusedError(
        f"{item.path.name}: no credentials, and no trusted publisher for this job: {reason}",
        where=target.name,
        next_step=f"register one for {item.name} (a pending one while the name is new) with this repository, workflow "
        "file and environment, or set TWINE_USERNAME and TWINE_PASSWORD",
    )


def _refused(item: Item, target: Target, status: int, text: str, known: bool) -> FarmError:
    """The error for a refusal, by its status, its text, and whether the name exists."""
    where = f"{target.name}, HTTP {status}"
    if status not in (401, 403):
        reason = next((line for line in reversed(text.splitlines()) if line.strip()), "no reason given")
        return UploadRefusedError(f"{item.path.name} was refused: {reason}", where=where)
    # The credentials are valid, but not for this project.
    not_permitted = re.search(r"isn't allowed|not allowed|not have permission|no permission", text)
    if known and not_permitted:
        return UploadRefusedError(
            f"{item.name} is not a project of yours",
            where=where,
            next_step="ask its owners to add you, or rename yours: name in [tool.torch-build-farm]",
        )
    if not known and not_permitted:
        return UploadRefusedError(
            f"the name {item.name} is not registered for these credentials",
            where=where,
            next_step="register a pending publisher for it (at most three wait at once; one reserves nothing: until "
            "the first upload anybody may take the name), or upload once with a token of the whole account",
        )
    return UploadRefusedError(
        "the index does not accept these credentials",
        where=where,
        next_step="set TWINE_USERNAME and TWINE_PASSWORD (for a token: __token__ and the token), or ~/.pypirc",
    )
