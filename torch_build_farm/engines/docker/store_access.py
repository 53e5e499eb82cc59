"""The ground that containers stand on: the store as they see it, certificates and settings, and their limits.

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

_INSIDE = Path("/etc/torch-build-farm")  # certificates and settings in a container
# The bundles of Debian and of Fedora's kin.
_SYSTEM_BUNDLES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt")
# Of the farm's usual environment what belongs to this machine and its user.
_LEFT_OUT = {"PATH", "HOME", "USER", "LOGNAME", "CC", "CXX", "NETRC", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR",
             "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "UV_CONFIG_FILE"}  # fmt: skip


@dataclass(frozen=True)
class Ground:
    """`store` as containers see it, `shared` with this machine or not; `free_gb` (10^9 bytes) is free in it."""

    store: TorchStore
    shared: bool
    free_gb: float
    confinement: Confinement


def _certificates() -> Path | None:
    """The bundle that this machine's user trusts: the one named, else the system's."""
    named = (os.environ.get(name) for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"))
    return next((Path(path).resolve() for path in (*named, *_SYSTEM_BUNDLES) if path and Path(path).is_file()), None)


def _brought() -> dict[str, Path]:
    """Files of this machine that commands in containers need, by their names there."""
    files = {"certificates.pem": _certificates(), "uv.toml": uv_settings()}
    return {name: path for name, path in files.items() if path}


def _environment(store: TorchStore, files: Mapping[str, Path], user: str) -> dict[str, str]:
    left_out = _LEFT_OUT.union(_passed())
    variables = {k: v for k, v in tools.environment(store.uv_cache, store.root).items() if k not in left_out}
    if "certificates.pem" in files:
        bundle = str(files["certificates.pem"])
        variables |= dict.fromkeys(("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"), bundle)
    if "uv.toml" in files:
        variables["UV_CONFIG_FILE"] = str(files["uv.toml"])
    return {**variables, **({"HOME": "/tmp"} if user else {})}


def _passed() -> tuple[str, ...]:
    """The caller's variables, which may hold passwords: proxies, uv's settings for its indexes."""
    usual = tools.environment(Path(), Path())
    return tuple(sorted(k for k, v in usual.items() if k not in _LEFT_OUT and os.environ.get(k) == v))


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
        """Run a command and return what it printed."""
        said: bytes = self.client.containers.run(
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
        return said.decode("utf-8", "replace").strip()


def find(helper: Helper, store: TorchStore, compilers: int) -> Ground:
    """Find out whether containers share the store's file system, and lay the ground accordingly.

    `compilers` is the memory (bytes) that a container's compilers may take together. Raises EngineError where the
    engine does neither share the store nor let a volume be made.
    """
    if not _shares(helper, store):
        return _in_volume(helper, store, compilers)
    files, user = _brought(), helper.daemon.user
    mounts = [mount(type="bind", source=str(store.root), target=str(store.root))]
    there = {name: _INSIDE / name for name in files}
    mounts += [mount(type="bind", source=str(files[n]), target=str(there[n]), readonly="") for n in files]
    environment = _environment(store, there, user)
    confinement = Confinement(tuple(mounts), user, helper.daemon.userns, compilers, environment, _passed())
    return Ground(store, True, store.free_gb(), confinement)


@contextlib.contextmanager
def _fifo_token(folder: Path) -> Iterator[tuple[Path, str]]:
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


def _shares(helper: Helper, store: TorchStore) -> bool:
    from docker.errors import APIError, ContainerError  # noqa: PLC0415
    from docker.types import Mount  # noqa: PLC0415

    store.root.mkdir(parents=True, exist_ok=True)
    with _fifo_token(store.root) as (fifo, word):
        try:
            bound = Mount(str(store.root), str(store.root), type="bind")
            return helper.run(["timeout", "10", "head", "-n", "1", str(fifo)], bound, helper.daemon.user) == word
        except ContainerError:
            return False  # it cannot read the FIFO: another file system, or another kernel
        except APIError as error:
            if error.status_code == 400 or "mounts denied" in str(error):  # no such folder there
                return False
            raise


def _in_volume(helper: Helper, store: TorchStore, compilers: int) -> Ground:
    """A volume of the engine for the store. What lies in it is noted on this machine, in a folder of the store."""
    from docker.errors import APIError, ContainerError, NotFound  # noqa: PLC0415

    try:
        try:
            volume = helper.client.volumes.get(helper.volume)
        except NotFound:
            labels = Labels(helper.labels.store, "", "").all()
            volume = helper.client.volumes.create(helper.volume, labels=labels)
        made = hashlib.sha256(f"{helper.daemon.id}\n{volume.attrs.get('CreatedAt')}".encode()).hexdigest()[:12]
        inner = TorchStore(store.root / "engines" / made, store.scope)
        inner.uv_cache.mkdir(parents=True, exist_ok=True)
        files = _brought()
        free = _prime(helper, inner, files)
    except (APIError, ContainerError) as error:
        raise EngineError(
            f"the engine does not share this machine's files, and a volume in their place cannot be used: {error}",
            where=str(store.root),
            next_step=f"share {store.root} with the engine under that path, or build on this machine: --engine local",
        ) from None
    mounts = (mount(type="volume", source=helper.volume, target=str(inner.root)),)
    there = {name: inner.root / "settings" / name for name in files}
    confinement = Confinement(mounts, "", False, compilers, _environment(inner, there, ""), _passed())
    return Ground(inner, False, free, confinement)


def _prime(helper: Helper, store: TorchStore, files: Mapping[str, Path]) -> float:
    """Put `files` into the volume, remove what killed farms left in it, and return what is free there in GB."""
    from docker.types import Mount  # noqa: PLC0415

    root = str(store.root)
    bound = Mount(root, helper.volume, type="volume")
    script = (
        f"rm -rf {store.environment('')}; mkdir -p {root}/settings {root}/envs {root}/uv; df -B1 --output=avail {root}"
    )
    free = int(helper.run(["/bin/sh", "-c", script], bound).split()[-1]) / 1e9
    _copy(helper, bound, {f"settings/{name}": path for name, path in files.items()})
    return free


def place(helper: Helper, ground: Ground, folder: Path, name: str) -> Path:
    """Put a folder of this machine into a store that lies in a volume, unless it is there; returns where it lies.

    It is there whole or not at all, and compared by SHA-256 each time.
    """
    from docker.types import Mount  # noqa: PLC0415

    there = ground.store.root / name
    bound = Mount(str(ground.store.root), helper.volume, type="volume")
    ours = sorted(f"{sha256(path)}  {path.name}" for path in folder.iterdir())
    said = helper.run(["sh", "-c", f"cd {there} 2> /dev/null && sha256sum * || true"], bound)
    if sorted(said.splitlines()) != ours:
        scratch = f"{name}.{uuid.uuid4().hex[:12]}"
        helper.run(["sh", "-c", f"rm -rf {there} && mkdir -p {there.parent}"], bound)
        _copy(helper, bound, {f"{scratch}/{path.name}": path for path in folder.iterdir()})
        helper.run(["mv", "-T", str(ground.store.root / scratch), str(there)], bound)
    return there


def _copy(helper: Helper, bound: Mount, files: Mapping[str, Path]) -> None:
    """Copy files into a volume, by their names there; each whole or not at all."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, path in files.items():
            archive.add(path, arcname=name)
    holder = helper.client.containers.create(helper.image, "true", labels=helper.labels.all(), mounts=[bound])
    try:
        holder.put_archive(bound["Target"], stream.getvalue())
    finally:
        holder.remove(force=True, v=True)


def read(helper: Helper, ground: Ground, path: Path) -> str:
    """A file of a store that lies in a volume; empty where there is none."""
    from docker.types import Mount  # noqa: PLC0415

    bound = Mount(str(ground.store.root), helper.volume, type="volume")
    return helper.run(["sh", "-c", f"cat {path} 2> /dev/null || true"], bound)


def remove(helper: Helper, ground: Ground, folder: Path) -> None:
    """Remove a folder of a store that lies in a volume."""
    from docker.types import Mount  # noqa: PLC0415

    helper.run(["rm", "-rf", str(folder)], Mount(str(ground.store.root), helper.volume, type="volume"))
