"""Uploads with twine, one file at a time: each has to be on the index with the same bytes before the next one goes.

Twine is run as a program and not called: its exit code and last lines are its interface, and its credentials come from
the same places as always. What it prints decides between "try again" (a busy index) and "give up" (a refusal).
"""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import unquote, urlsplit

from torch_build_farm.core.errors import FarmError, PackageIndexError, PublishError, UploadRefusedError
from torch_build_farm.core.package_index import PackageIndex
from torch_build_farm.core.process import Completed, Runner, Shell
from torch_build_farm.core.urls import public
from torch_build_farm.publish.names import IndexFile, IndexNames
from torch_build_farm.publish.private_copies import PrivateCopy
from torch_build_farm.publish.publication import Item

_TRIES = 6
_FIRST_PAUSE_S = 1.0  # doubled after every try
_VISIBLE_S = 300.0  # seconds until a file is listed: indexes answer from caches
# HTTP: Request Timeout, Too Early, Too Many Requests. Every 5xx counts as busy too.
_BUSY = {408, 425, 429}
# Names of exceptions, of requests and urllib3, in twine's traceback: no answer came, so another try may succeed.
_UNREACHABLE = re.compile("ConnectionError|Timeout|RemoteDisconnected|ProtocolError|SSLError")


@dataclass(frozen=True)
class Target:
    """Where to publish.

    - `name`: what people read, without credentials.
    - `words`: twine's options for it.
    - `index`: the index that lists the files after their upload.
    - `secrets`: environment variables for twine alone, so that neither logs nor process lists show them.
    """

    name: str
    words: tuple[str, ...]
    index: PackageIndex
    secrets: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, text: str, index_url: str = "") -> Target:
        """The target for pypi, testpypi or a URL for uploads; `index_url` is the URL where it lists its files.

        Without `index_url` that is the upload URL with /legacy/ replaced by /simple/ (Warehouse's upload API, which
        twine speaks), or with simple/ appended. Raises PublishError for anything that is not such a URL.
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
        secrets = []
        if parts.username:
            secrets.append(("TWINE_USERNAME", unquote(parts.username)))
        if parts.password:
            secrets.append(("TWINE_PASSWORD", unquote(parts.password)))
        url = public(text)
        # The index may want the same credentials for its list: its URL keeps them.
        return cls(url, ("--repository-url", url), PackageIndex(index_url or _listing(text)), tuple(secrets))


def _listing(url: str) -> str:
    """The URL where an index lists its files, guessed from the URL for uploads."""
    without_legacy = re.sub(r"/legacy/?$", "", url)
    return f"{without_legacy.rstrip('/')}/simple/"


def shell_without_credentials(runner: Runner, work: Path) -> Shell:
    """A shell with the log of publishing, and without any variable."""
    log = work / "logs" / "publish.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    return Shell(runner, {}, work, log, lambda _: None)


def shell_for(target: Target, runner: Runner, work: Path) -> Shell:
    """The shell that runs twine, in the caller's environment, which holds credentials and CI's identity."""
    # Credentials in the upload URL win over the caller's variables. Twine's output is searched: no colours in it.
    env = {**os.environ, **dict(target.secrets), "NO_COLOR": "1", "PYTHONUNBUFFERED": "1"}
    return replace(shell_without_credentials(runner, work), env=env)


def check(paths: list[Path], shell: Shell) -> None:
    """Let twine check the files' metadata. Raises PublishError if it refuses one."""
    done = shell.run(sys.executable, "-I", "-m", "twine", "check", *paths)
    if done.ok:
        return
    reasons = []
    for line in done.tail:
        if "ERROR" in line or "FAILED" in line:
            reasons.append(line.strip())
    raise PublishError(f"twine check refuses a file: {'; '.join(reasons)}", where=str(shell.log))


def upload(item: Item, copy: PrivateCopy, target: Target, names: IndexNames, shell: Shell, known: bool) -> None:  # noqa: PLR0917
    """Upload the private copy of one file, with retries while the index is busy, and wait until the index lists it.

    `known` says whether the index already had the distribution's name. Raises UploadRefusedError if the index refuses
    the file or the credentials, PublishError if the file was exchanged, the name was taken meanwhile, or if the index
    stays busy, does not list the file, or lists other bytes.
    """
    # The plan may be minutes old.
    copy.check()
    names.require_own(_listed_now(item, names, shell), target.name)
    command = ("twine", "upload", "--non-interactive", "--disable-progress-bar", *target.words)
    pause = _FIRST_PAUSE_S
    for trial in range(_TRIES):
        done = shell.run(sys.executable, "-I", "-m", *command, copy.path)
        # The answer to an upload can get lost although the file has arrived.
        if done.ok or _published(item, names):
            break

        text = "\n".join(done.tail)
        no_credentials = re.search(r"TrustedPublishingFailure[\s\S]*|NonInteractive: Credential.*", text)
        if no_credentials:
            raise _no_publisher(item, target, no_credentials[0])
        http_error = re.search(r"HTTPError: (\d{3}) ", text)
        status = int(http_error[1]) if http_error else 0
        is_busy = status >= 500 or status in _BUSY
        if http_error and not is_busy:
            raise _refused(item, target, status, done, known)

        may_succeed_later = is_busy or _UNREACHABLE.search(text)
        if trial == _TRIES - 1 or not may_succeed_later:
            raise PublishError(
                f"{item.path.name} cannot be uploaded: {done.last_line or 'twine printed nothing'}",
                where=str(shell.log),
                next_step="run the same command again: files that the index has are not uploaded twice",
            )
        shell.say(f"the index is busy ({status or 'no answer'}): trying again in {pause:.0f} s")
        shell.runner.pause(pause)
        pause *= 2
    _wait(item, names, shell.runner)


def _listed_now(item: Item, names: IndexNames, shell: Shell) -> list[IndexFile]:
    """The files that the index has of the item's distribution, asked for again while it is busy or away.

    Raises PackageIndexError if it stays so.
    """
    pause = _FIRST_PAUSE_S
    for _ in range(_TRIES - 1):
        try:
            return names.files(item.name)
        except PackageIndexError:
            shell.say(f"the index does not answer: trying again in {pause:.0f} s")
            shell.runner.pause(pause)
            pause *= 2
    return names.files(item.name)


def _published(item: Item, names: IndexNames) -> bool:
    """Whether the index lists the file by now. Raises PublishError if it has other bytes under the file's name."""
    try:
        file = names.file(item.name, item.path.name)
    except PackageIndexError:  # busy, or between two states: the caller tries again
        return False
    if file is None:
        return False
    if file.sha256 != item.sha256:
        raise PublishError(
            f"the index serves a {item.path.name} that is not the uploaded file",
            where=f"sha256 here {item.sha256}, there {file.sha256}",
            next_step="find out who published it before anything else",
        )
    return True


def _wait(item: Item, names: IndexNames, runner: Runner) -> None:
    """Wait until the index lists the file. Raises PublishError after _VISIBLE_S seconds."""
    waited = 0.0
    pause = 0.2
    while not _published(item, names):
        if waited > _VISIBLE_S:
            raise PublishError(
                f"{item.path.name} was uploaded, but does not appear on the index",
                where=public(names.index.url) or "the default index",
                next_step="name where it lists its files with --index-url, or run again later",
            )
        runner.pause(pause)
        waited += pause
        pause = min(pause * 2, 10)


def _no_publisher(item: Item, target: Target, text: str) -> FarmError:
    """The error for a job without credentials; `text` is twine's reason."""
    reason = " ".join(re.sub(r"\x1b\[[\d;]*m", "", text).split())  # without colours, on one line
    return UploadRefusedError(
        f"{item.path.name}: no credentials, and no trusted publisher for this job: {reason}",
        where=target.name,
        next_step=f"register one for {item.name} (a pending one while the name is new) with this repository, workflow "
        "file and environment, or set TWINE_USERNAME and TWINE_PASSWORD",
    )


def _refused(item: Item, target: Target, status: int, done: Completed, known: bool) -> FarmError:
    """The error for a refusal, by its HTTP status, twine's output, and whether the index has the name (`known`)."""
    where = f"{target.name}, HTTP {status}"
    if status not in (401, 403):
        return UploadRefusedError(f"{item.path.name} was refused: {done.last_line}", where=where)
    # Indexes answer 403 both for wrong credentials and for right ones without permission: only the text differs.
    not_permitted = re.search(r"isn't allowed|not allowed|not have permission|no permission", "\n".join(done.tail))
    if known and not_permitted:
        return UploadRefusedError(
            f"{item.name} is not a project of yours",
            where=where,
            next_step="ask its owners to add you, or rename your project: name in [tool.torch-build-farm]",
        )
    if not known and not_permitted:
        return UploadRefusedError(
            f"the name {item.name} is not registered for these credentials",
            where=where,
            next_step="register a pending publisher for it (at most three can wait at a time, and none reserves the "
            "name: anybody may take it until the first upload), or upload once with a token of the whole account",
        )
    return UploadRefusedError(
        "the index does not accept these credentials",
        where=where,
        next_step="set TWINE_USERNAME and TWINE_PASSWORD (for a token: __token__ and the token), or ~/.pypirc",
    )
