"""The farm's seals: HMAC-SHA256 (RFC 2104) over what this machine's farm found out, with a key that builds cannot read.

A record is a JSON file beside a wheel, and anybody who may write there can write one. Its seal shows that this user's
farm wrote it. The key lies in the user's state folder, outside every work folder and outside the store, so that no
container gets to see it. Code that the local engine runs has the user's rights, and can read it.
"""

from __future__ import annotations

import contextlib
import errno
import hmac
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import platformdirs

from torch_build_farm.core import ownership
from torch_build_farm.core.errors import DiskError
from torch_build_farm.core.store import STORE_VARIABLE, default_folder

STATE_VARIABLE = "TORCH_BUILD_FARM_STATE"
_ANOTHER_FOLDER = f"name a folder of this user's, outside work folders and the store: {STATE_VARIABLE}=DIR"
_KEY = "seal-key"
_KEY_BYTES = 32  # as long as SHA-256's result; RFC 2104 discourages shorter ones
_OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH
_OTHERS_MAY = stat.S_IRWXG | stat.S_IRWXO


def state_folder() -> Path:
    """$TORCH_BUILD_FARM_STATE, else the user's state folder (XDG_STATE_HOME, ~/.local/state).

    Raises DiskError for a user without a home folder, and for a folder inside the store.
    """
    named = os.environ.get(STATE_VARIABLE)
    try:
        folder = Path(named).absolute() if named else platformdirs.user_state_path("torch-build-farm")
    except RuntimeError:  # neither HOME nor the password file names a home folder
        raise _homeless() from None
    if not folder.is_absolute():  # as older releases of platformdirs say it
        raise _homeless()
    if folder.resolve().is_relative_to(default_folder().resolve()):
        raise DiskError(
            "the key of the farm's seals would lie in the store, which builds see",
            where=str(folder),
            next_step=_ANOTHER_FOLDER,
        )
    return folder


def require_apart(work: Path) -> None:
    """Raise DiskError where the key lies in a work folder, which builds see."""
    if state_folder().resolve().is_relative_to(work.resolve()):
        raise DiskError(
            "the key of the farm's seals would lie in the work folder, which builds see",
            where=str(work),
            next_step=_ANOTHER_FOLDER,
        )


def _homeless() -> DiskError:
    return DiskError(
        "this user has no home folder, where the farm would keep the key of its seals",
        where="HOME",
        next_step=_ANOTHER_FOLDER,
    )


def seal(content: bytes) -> str:
    """The seal of `content`, in hexadecimal. Makes the key when it is first needed.

    Raises DiskError where the key cannot be made or read, belongs to another user, or can be read by others.
    """
    return _seal(_key() or _make_key(state_folder()), content)


def holds(content: bytes, claimed_seal: str) -> bool:
    """Whether `claimed_seal` is this user's seal of `content`. Raises DiskError as `seal` does, but makes no key."""
    key = _key()
    if key is None:  # who has never sealed anything has no seal that could hold
        return False
    # Compared as bytes: compare_digest refuses text that is not ASCII.
    return hmac.compare_digest(_seal(key, content).encode(), claimed_seal.encode("utf-8", "surrogatepass"))


def _seal(key: bytes, content: bytes) -> str:
    return hmac.digest(key, content, "sha256").hex()


_keys: dict[tuple[str | None, ...], bytes] = {}  # what was read, by the variables that decide where the key lies


def _key() -> bytes | None:
    """The key, read once a process; None where there is none yet."""
    names = (STATE_VARIABLE, STORE_VARIABLE, "XDG_STATE_HOME", "XDG_CACHE_HOME", "HOME")
    variables = tuple(map(os.environ.get, names))
    if variables not in _keys:
        path = state_folder() / _KEY
        if not os.path.lexists(path):
            return None
        with _errors_of(path.parent):
            _check_folder(path.parent)
            _keys[variables] = _read_key(path)
    return _keys[variables]


@contextlib.contextmanager
def _errors_of(folder: Path) -> Iterator[None]:
    """Raise DiskError for an OSError of the state folder."""
    try:
        yield
    except OSError as error:
        raise _unfit(folder, f"cannot be kept: {error.strerror}", next_step=_ANOTHER_FOLDER) from None


def _check_folder(folder: Path) -> None:
    """Raise DiskError where another user may change what lies in the state folder."""
    _check(folder, folder.stat(), forbidden=_OTHERS_MAY_WRITE)
    # Whoever may write a folder above could exchange this one.
    ownership.check_path(folder, _ANOTHER_FOLDER)


def _make_key(folder: Path) -> bytes:
    """A new key, unless another farm has just made one: then that. Raises DiskError."""
    with _errors_of(folder):
        ownership.make_folder(folder)
        _check_folder(folder)
        # Under a name of its own first, then linked: another farm never sees half a key, and only one of two is kept.
        scratch = folder / f".{_KEY}.{os.urandom(8).hex()}"
        descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(os.urandom(_KEY_BYTES))
                stream.flush()
                os.fsync(stream.fileno())
            with contextlib.suppress(FileExistsError):
                os.link(scratch, folder / _KEY)
        finally:
            scratch.unlink(missing_ok=True)
        return _read_key(folder / _KEY)


def _read_key(path: Path) -> bytes:
    """The key in a file that is this user's alone. Raises FileNotFoundError and other OSErrors, DiskError."""
    # Neither through a link, nor waiting for the writer of a named pipe.
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _unfit(path, "is a link") from None
        raise
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise _unfit(path, "is not a file")
        _check(path, status, forbidden=_OTHERS_MAY)
        key = os.read(descriptor, _KEY_BYTES + 1)
    finally:
        os.close(descriptor)
    if len(key) != _KEY_BYTES:
        raise _unfit(path, f"has not {_KEY_BYTES} bytes")
    return key


def _check(path: Path, status: os.stat_result, forbidden: int) -> None:
    """Raise DiskError where `path` is another user's, or has one of the `forbidden` permissions."""
    if status.st_uid != os.geteuid():
        raise _unfit(path, f"belongs to user {status.st_uid}, and the farm runs as user {os.geteuid()}")
    if status.st_mode & forbidden:
        mode = stat.S_IMODE(status.st_mode)
        raise _unfit(path, f"is open to other users (mode {mode:03o})", next_step=f"chmod go-rwx {path}")


def _unfit(path: Path, reason: str, next_step: str = "") -> DiskError:
    return DiskError(
        f"the key of the farm's seals {reason}",
        where=str(path),
        next_step=next_step or f"remove it, after which all stages run again; or {_ANOTHER_FOLDER}",
    )
