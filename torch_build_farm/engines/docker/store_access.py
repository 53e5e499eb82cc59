"""How containers reach the store, and what else of this machine they get: certificates, settings, limits.

On an engine that shares this machine's file system and kernel the store is mounted where it lies, so that paths mean
the same on both sides and every file that two environments share is one hard link. An engine elsewhere (DOCKER_HOST,
a context, a virtual machine) gets a volume of its own in the store's place.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import tarfile
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torch_build_farm.core import tools
from torch_build_farm.core.errors import EngineError
from torch_build_farm.core.files import sha256
from torch_build_farm.core.package_index import uv_settings
from torch_build_farm.core.store import TorchStore
from torch_build_farm.engines.docker.client import Daemon
from torch_build_farm.engines.docker.containers import Confinement, Labels, mount

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.types import Mount

_FOLDER_INSIDE = Path("/etc/torch-build-farm")  # certificates and settings in a container
# The bundles of Debian and of Fedora's relatives.
_SYSTEM_BUNDLES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt")
_BUNDLE_VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
# Variables of the farm's usual environment that only make sense for this machine and its user.
_HOST_ONLY = {
    *("PATH", "HOME", "USER", "LOGNAME", "CC", "CXX", "NETRC", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR"),
    *("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "UV_CONFIG_FILE"),
}


@dataclass(frozen=True)
class StoreAccess:
    """`store` as containers see it, and whether it is `shared` with this machine; `free_gb` (10^9 bytes) is free in it.

    `confinement` is what every container of this session is started with.
    """

    store: TorchStore
    shared: bool
    free_gb: float
    confinement: Confinement


@dataclass(frozen=True)
class Helper:
    """Short errands in containers of `image`, without network."""

    client: DockerClient
    daemon: Daemon
    image: str
    labels: Labels

    @property
    def volume(self) -> str:
        """Name of the volume in the store's place."""
        return f"torch-build-farm-{self.labels.store}"

    def run(self, command: list[str], mount: Mount, user: str = "") -> str:
        """Run a command and return what it printed. Raises ContainerError where it fails."""
        output: bytes = self.client.containers.run(
            self.image,
            command,
            remove=True,
            network_disabled=True,
            labels=self.labels.all(),
            mounts=[mount],
            user=user or None,
            userns_mode="host" if mount["Type"] == "bind" and self.daemon.userns else None,
            security_opt=["no-new-privileges"],
        )
        return output.decode("utf-8", "replace").strip()


def find_access(helper: Helper, store: TorchStore, compilers: int) -> StoreAccess:
    """Find out whether containers share the store's file system, and how they have to be started.

    `compilers` is the memory (bytes) that a container's compilers may take together. Raises EngineError where the
    engine neither shares the store nor allows a volume in its place.
    """
    if _shares_files(helper, store):
        return _mounted(helper, store, compilers)
    return _in_volume(helper, store, compilers)


# ---- what containers get of this machine


def _certificates() -> Path | None:
    """The certificate bundle that this machine's user trusts: the one a variable names, else the system's."""
    for candidate in (*map(os.environ.get, _BUNDLE_VARIABLES), *_SYSTEM_BUNDLES):
        if candidate and Path(candidate).is_file():
            return Path(candidate).resolve()
    return None


def _host_files() -> dict[str, Path]:
    """Files of this machine that commands in containers need, by their names there."""
    files = {"certificates.pem": _certificates(), "uv.toml": uv_settings()}
    return {name: path for name, path in files.items() if path}


def _callers_variables() -> tuple[str, ...]:
    """Names of the caller's variables, whose values may hold passwords: proxies, uv's settings for its indexes."""
    # Of the farm's usual environment, what has the caller's own value is the caller's.
    names = []
    for name, value in tools.environment(Path(), Path()).items():
        if os.environ.get(name) == value and name not in _HOST_ONLY:
            names.append(name)
    return tuple(sorted(names))


def _environment(store: TorchStore, files: Mapping[str, Path], user: str) -> dict[str, str]:
    """The variables that a container gets by value; `files` are `_host_files` where the container has them."""
    variables = tools.environment(store.uv_cache, store.root)
    for name in _HOST_ONLY.union(_callers_variables()):
        variables.pop(name, None)
    if "certificates.pem" in files:
        bundle = str(files["certificates.pem"])
        variables |= dict.fromkeys((*_BUNDLE_VARIABLES, "PIP_CERT"), bundle)
    if "uv.toml" in files:
        variables["UV_CONFIG_FILE"] = str(files["uv.toml"])
    if user:  # it has no home folder in the image
        variables["HOME"] = "/tmp"
    return variables


# ---- an engine that shares this machine's files


@contextlib.contextmanager
def _fifo_with_token(folder: Path) -> Iterator[tuple[Path, str]]:
    """A FIFO in `folder` that holds a word, and the word: who can read it shares this file system and this kernel."""
    word = os.urandom(8).hex()
    path = folder / f"shared-{word}"
    os.mkfifo(path, 0o600)
    descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    try:
        os.write(descriptor, f"{word}\n".encode())
        yield path, word
    finally:
        os.close(descriptor)
        path.unlink(missing_ok=True)


def _shares_files(helper: Helper, store: TorchStore) -> bool:
    """Whether containers that mount the store share its file system and this machine's kernel."""
    from docker.errors import APIError, ContainerError  # noqa: PLC0415
    from docker.types import Mount  # noqa: PLC0415

    store.make()
    with _fifo_with_token(store.root) as (fifo, word):
        bind = Mount(str(store.root), str(store.root), type="bind")
        try:
            # On another kernel the FIFO may be there and stay empty, so `head` must not wait for ever.
            return helper.run(["timeout", "10", "head", "-n", "1", str(fifo)], bind, helper.daemon.user) == word
        except ContainerError:
            return False  # it cannot read the FIFO: another file system, or another kernel
        except APIError as error:
            if error.status_code == 400 or "mounts denied" in str(error):  # the engine's machine has no such folder
                return False
            raise


def _mounted(helper: Helper, store: TorchStore, compilers: int) -> StoreAccess:
    """The store, and this machine's files, mounted from where they lie."""
    user = helper.daemon.user
    mounts = [mount(type="bind", source=str(store.root), target=str(store.root))]
    files_inside = {}
    for name, path in _host_files().items():
        files_inside[name] = _FOLDER_INSIDE / name
        mounts.append(mount(type="bind", source=str(path), target=str(files_inside[name]), readonly=""))
    environment = _environment(store, files_inside, user)
    confinement = Confinement(tuple(mounts), user, helper.daemon.userns, compilers, environment, _callers_variables())
    return StoreAccess(store, shared=True, free_gb=store.free_gb(), confinement=confinement)


# ---- an engine elsewhere: a volume in the store's place


def _in_volume(helper: Helper, store: TorchStore, compilers: int) -> StoreAccess:
    """A volume of the engine in the store's place. This machine keeps notes of its content in a folder of the store."""
    from docker.errors import APIError, ContainerError, NotFound  # noqa: PLC0415

    try:
        try:
            volume = helper.client.volumes.get(helper.volume)
        except NotFound:
            labels = Labels(helper.labels.store, "", "").all()
            volume = helper.client.volumes.create(helper.volume, labels=labels)
        # A volume that was removed and created again is another one, and the notes of the old one must not count.
        identity = f"{helper.daemon.id}\n{volume.attrs.get('CreatedAt')}"
        folder = hashlib.sha256(identity.encode()).hexdigest()[:12]
        inner = TorchStore(store.root / "engines" / folder, store.scope)
        inner.uv_cache.mkdir(parents=True, exist_ok=True)
        files = _host_files()
        free_gb = _prime_volume(helper, inner, files)
    except (APIError, ContainerError) as error:
        raise EngineError(
            f"the engine does not share this machine's files, and a volume in their place cannot be used: {error}",
            where=str(store.root),
            next_step=f"share {store.root} with the engine under that path, or build on this machine: --engine local",
        ) from None
    mounts = (mount(type="volume", source=helper.volume, target=str(inner.root)),)
    files_inside = {name: inner.root / "settings" / name for name in files}
    environment = _environment(inner, files_inside, "")
    confinement = Confinement(mounts, "", False, compilers, environment, _callers_variables())
    return StoreAccess(inner, shared=False, free_gb=free_gb, confinement=confinement)


def _volume_mount(helper: Helper, store: TorchStore) -> Mount:
    from docker.types import Mount  # noqa: PLC0415

    return Mount(str(store.root), helper.volume, type="volume")


def _prime_volume(helper: Helper, store: TorchStore, files: Mapping[str, Path]) -> float:
    """Put `files` into the volume, remove what killed farms left in it, and return what is free there in GB."""
    root = str(store.root)
    volume = _volume_mount(helper, store)
    script = (
        f"rm -rf {store.environment('')}; mkdir -p {root}/settings {root}/envs {root}/uv; df -B1 --output=avail {root}"
    )
    free_gb = int(helper.run(["/bin/sh", "-c", script], volume).split()[-1]) / 1e9
    settings = {f"settings/{name}": path for name, path in files.items()}
    _copy_files(helper, volume, settings)
    return free_gb


def put_folder(helper: Helper, access: StoreAccess, folder: Path, name: str) -> Path:
    """Put a folder of this machine into the volume under `name`, unless it is there; returns its path in containers.

    The folder appears complete or not at all; its files are compared by SHA-256 each time.
    """
    target = access.store.root / name
    volume = _volume_mount(helper, access.store)
    # Lines as sha256sum prints them, in the order of their text on both sides.
    wanted_sums = sorted([f"{sha256(path)}  {path.name}" for path in folder.iterdir()])
    output = helper.run(["sh", "-c", f"cd {target} 2> /dev/null && sha256sum * || true"], volume)
    if sorted(output.splitlines()) != wanted_sums:
        # Under a name of its own until it is complete: the farm may be killed in between.
        scratch = f"{name}.{uuid.uuid4().hex[:12]}"
        helper.run(["sh", "-c", f"rm -rf {target} && mkdir -p {target.parent}"], volume)
        files = {f"{scratch}/{path.name}": path for path in folder.iterdir()}
        _copy_files(helper, volume, files)
        helper.run(["mv", "-T", str(access.store.root / scratch), str(target)], volume)
    return target


def _copy_files(helper: Helper, volume: Mount, files: Mapping[str, Path]) -> None:
    """Copy files into a volume; `files` has them by their names there."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, path in files.items():
            archive.add(path, arcname=name)
    # A container that is never started: the engine's way to put an archive into a volume.
    container = helper.client.containers.create(helper.image, "true", labels=helper.labels.all(), mounts=[volume])
    try:
        container.put_archive(volume["Target"], stream.getvalue())
    finally:
        container.remove(force=True, v=True)


def read_file(helper: Helper, access: StoreAccess, path: Path) -> str:
    """The text of a file in the volume; empty where there is none."""
    return helper.run(["sh", "-c", f"cat {path} 2> /dev/null || true"], _volume_mount(helper, access.store))


def remove_folder(helper: Helper, access: StoreAccess, folder: Path) -> None:
    """Remove a folder of the volume."""
    helper.run(["rm", "-rf", str(folder)], _volume_mount(helper, access.store))
