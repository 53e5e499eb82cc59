"""How containers reach the store, and what else of this machine they get: certificates, settings, limits.

On an engine that shares this machine's file system and kernel the store is mounted where it lies, so that paths mean
the same on both sides and every file that two environments share is one hard link. An engine elsewhere (DOCKER_HOST,
a context, a virtual machine) gets a volume of its own in the store's place.

There are two kinds of containers. The farm's own run uv and nothing foreign: uv takes wheels alone (UV_NO_BUILD), and
installing a wheel executes nothing of it. They have the whole store, since hard links need one mount. Containers of
foreign code (back ends, `before-build`, imports, smoke scripts) get single parts of the store read-only, and write
folders of their own job alone. An environment is a farm's work, and its files are hard links into uv's cache; foreign
code gets it as the lower layer of an overlay, where what it writes goes to a folder of the job's own. That copies only
files that are changed. A read-only cache to install from was measured as well: 9,500 files of torch's SDK that are
links or copies of their own take 4 to 8 s where hard links take 0.6 s.

Where an engine cannot make overlays of the store (its file system is itself one, or a network's), environments are
copies in place of links.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import tarfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath, PurePosixPath
from typing import TYPE_CHECKING, Any

from torch_build_farm.core import locks, tools
from torch_build_farm.core.errors import EngineError
from torch_build_farm.core.files import remove_tree, sha256
from torch_build_farm.core.machine import Machine
from torch_build_farm.core.package_index import uv_settings
from torch_build_farm.core.store import TorchStore
from torch_build_farm.engines.docker.client import Daemon, oci_platform
from torch_build_farm.engines.docker.containers import Confinement, Labels, mount

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.types import Mount

_MOST_BYTES = 1_000_000  # of a file that foreign code wrote
_POLL_S = 0.2  # between two tries to get a lock
_FOLDER_INSIDE = Path("/etc/torch-build-farm")  # certificates and settings in a container
# The bundles of Debian and of Fedora's relatives.
_SYSTEM_BUNDLES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt")
_BUNDLE_VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
# Variables of the farm's usual environment that only make sense for this machine and its user.
_HOST_ONLY = {
    *("PATH", "HOME", "USER", "LOGNAME", "CC", "CXX", "NETRC", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR"),
    *("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "UV_CONFIG_FILE"),
}

# What foreign code does not get: the store's own cache, and without a network what reaches one.
_STORE_VARIABLES = {"UV_CACHE_DIR", "UV_LINK_MODE"}
_NETWORK_VARIABLES = {*_BUNDLE_VARIABLES, "PIP_CERT", "UV_CONFIG_FILE"}


@dataclass(frozen=True)
class StoreAccess:
    """`store` as containers see it, and whether it is `shared` with this machine; `free_gb` (10^9 bytes) is free in it.

    `on_engine` is where the store's folder lies on the engine's machine. `confinement` is what containers of the farm's
    own commands are started with. `overlay` are the options of the engine's overlays (mount(8)), None where it cannot
    make any.
    """

    store: TorchStore
    shared: bool
    free_gb: float
    on_engine: PurePath
    confinement: Confinement
    overlay: tuple[str, ...] | None = None

    def foreign(self, mounts: Sequence[str], network: bool) -> Confinement:
        """What a container of foreign code is started with: no part of the store but `mounts`.

        Only with a network it gets certificates and uv's settings, which may hold credentials.
        """
        own = self.confinement
        environment = {name: value for name, value in own.environment.items() if name not in _STORE_VARIABLES}
        environment["UV_CACHE_DIR"] = "/tmp/uv-cache"
        if not network:
            environment = {name: value for name, value in environment.items() if name not in _NETWORK_VARIABLES}
            return replace(own, mounts=tuple(mounts), environment=environment, passed=(), network=False)
        return replace(own, mounts=(*self._settings(), *mounts), environment=environment)

    def _settings(self) -> tuple[str, ...]:
        if self.shared:
            return self.confinement.mounts[1:]
        return (self.mount(self.store.root / "settings"),)

    def _where(self, path: PurePath) -> PurePath:
        """Where a path of the store lies on the engine's machine."""
        return self.on_engine / path.relative_to(self.store.root)

    def mount(self, path: PurePath, target: PurePath | None = None, *, writable: bool = False) -> str:
        """A part of the store, at its own path or at `target`; the value of --mount."""
        inside = str(target or path)
        if self.shared:
            flags: dict[str, Any] = {} if writable else {"readonly": ""}
            return mount(type="bind", source=str(path), target=inside, **flags)
        # A volume's subfolder: engines before 26 mount volumes as a whole only. They refuse "readonly" for a volume
        # without a name, and mount it as these options say, "ro" with a second call as bind mounts need it.
        how = "bind,nosuid,nodev" if writable else "bind,nosuid,nodev,ro"
        return mount({"type": "none", "device": str(self._where(path)), "o": how}, target=inside)

    def environment(self, home: PurePath, changes: PurePath) -> str:
        """An environment whose changes go to the folder `changes`; the value of --mount.

        Where the engine has no overlays, it is mounted as it is: all in it is the job's own then.
        """
        if self.overlay is None:
            return self.mount(home, writable=True)
        options = _overlay(self._where(home), self._where(changes), self.overlay)
        return mount({"type": "overlay", "device": "overlay", "o": options}, target=str(home))


def _overlay(lower: PurePath, changes: PurePath, options: Sequence[str]) -> str:
    """The options of an overlay (Documentation/filesystems/overlayfs.rst)."""

    def escaped(path: PurePath) -> str:
        return re.sub(r"([\\:,])", r"\\\1", str(path))

    upper, work = escaped(changes / "upper"), escaped(changes / "work")
    return ",".join([f"lowerdir={escaped(lower)}", f"upperdir={upper}", f"workdir={work}", "nosuid", "nodev", *options])


@dataclass(frozen=True)
class Helper:
    """Short errands in containers of `image`, which is for `platform`, without network."""

    client: DockerClient
    daemon: Daemon
    image: str
    platform: Machine
    labels: Labels

    @property
    def volume(self) -> str:
        """Name of the volume in the store's place."""
        return f"torch-build-farm-{self.labels.store}"

    def run(self, command: list[str], *mounts: Mount, user: str = "") -> str:
        """Run a command and return what it printed. Raises ContainerError where it fails."""
        from docker.errors import ContainerError  # noqa: PLC0415

        bound = any(mount["Type"] == "bind" for mount in mounts)
        container = self.client.containers.create(
            self.image,
            command,
            platform=oci_platform(self.platform),
            network_disabled=True,
            labels=self.labels.all(),
            mounts=list(mounts),
            user=user or None,
            userns_mode="host" if bound and self.daemon.userns else None,
            security_opt=["no-new-privileges"],
        )
        try:
            container.start()
            status = container.wait()["StatusCode"]
            output: bytes = container.logs(stdout=True, stderr=False)
            if status:
                reason = container.logs(stdout=False).decode("utf-8", "replace")
                raise ContainerError(container, status, command, self.image, reason)
        finally:
            container.remove(force=True, v=True)  # with the volumes that are mounts of its own
        return output.decode("utf-8", "replace").strip()


def find_access(helper: Helper, store: TorchStore, compilers: int) -> StoreAccess:
    """Find out whether containers share the store's file system, and how they have to be started.

    `compilers` is the memory (bytes) that a container's compilers may take together. Raises EngineError where the
    engine neither shares the store nor allows a volume in its place.
    """
    overlay = _overlay_options(helper.daemon)
    if _shares_files(helper, store, overlay):
        return _mounted(helper, store, compilers, overlay)
    if _shares_files(helper, store, None):
        return _mounted(helper, store, compilers, None)
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


def _environment(store: TorchStore, files: Mapping[str, Path], user: str, overlays: bool) -> dict[str, str]:
    """The variables that a container gets by value; `files` are `_host_files` where the container has them."""
    variables = tools.environment(store.uv_cache, store.root)
    # Without overlays foreign code writes into an environment itself: no file of it may be one of the cache.
    variables["UV_LINK_MODE"] = "hardlink" if overlays else "copy"
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


def _shares_files(helper: Helper, store: TorchStore, overlay: tuple[str, ...] | None) -> bool:
    """Whether containers that mount the store share its file system and this machine's kernel.

    With `overlay`: and whether the engine can make overlays of it with these options.
    """
    from docker.errors import APIError, ContainerError  # noqa: PLC0415
    from docker.types import Mount  # noqa: PLC0415

    store.make()
    with _fifo_with_token(store.root) as (fifo, word):
        mounts = [Mount(str(store.root), str(store.root), type="bind")]
        # On another kernel the FIFO may be there and stay empty, so `head` must not wait for ever.
        script = 'timeout 10 head -n 1 "$1"'
        folder = store.root / f"overlay-{word}"
        try:
            if overlay is not None:
                for name in ("lower/ready", "upper", "work"):
                    (folder / name).mkdir(parents=True)
                mounts.append(_overlay_mount("/overlay", _overlay(folder / "lower", folder, overlay)))
                script += " && mv -T /overlay/ready /overlay/renamed"
            return helper.run(["sh", "-c", script, "sh", str(fifo)], *mounts, user=helper.daemon.user) == word
        except ContainerError:
            return False  # it cannot read the FIFO: another file system, or another kernel
        except APIError as error:
            # The engine's machine has no such folder, or its kernel refuses the overlay.
            if overlay is not None or error.status_code == 400 or "mounts denied" in str(error):
                return False
            raise
        finally:
            remove_changes(folder)


def _overlay_options(daemon: Daemon) -> tuple[str, ...]:
    """The options of the overlays of an engine."""
    # A folder is renamed in an overlay, and not copied, with redirect_dir; a user's own name space has userxattr only.
    return ("userxattr",) if daemon.rootless else ("redirect_dir=on",)


def _overlay_mount(target: str, options: str) -> Mount:
    from docker.types import DriverConfig, Mount  # noqa: PLC0415

    driver = DriverConfig("local", {"type": "overlay", "device": "overlay", "o": options})
    return Mount(target, None, type="volume", driver_config=driver)


def remove_changes(folder: Path) -> None:
    """Remove a folder of this machine that an overlay kept its changes in."""
    # The kernel makes this one, for root alone; the farm's user may remove it all the same, as long as it is empty.
    with contextlib.suppress(OSError):
        (folder / "work" / "work").rmdir()
    remove_tree(folder)


def _mounted(helper: Helper, store: TorchStore, compilers: int, overlay: tuple[str, ...] | None) -> StoreAccess:
    """The store, and this machine's files, mounted from where they lie."""
    user = helper.daemon.user
    mounts = [mount(type="bind", source=str(store.root), target=str(store.root))]
    files_inside = {}
    for name, path in _host_files().items():
        files_inside[name] = _FOLDER_INSIDE / name
        mounts.append(mount(type="bind", source=str(path), target=str(files_inside[name]), readonly=""))
    environment = _environment(store, files_inside, user, overlays=overlay is not None)
    confinement = Confinement(tuple(mounts), user, helper.daemon.userns, compilers, environment, _callers_variables())
    return StoreAccess(store, True, store.free_gb(), store.root, confinement, overlay)


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
    on_engine = PurePosixPath(str(volume.attrs["Mountpoint"]))
    overlay = _overlays_of_volume(helper, inner, on_engine)
    environment = _environment(inner, files_inside, "", overlays=overlay is not None)
    confinement = Confinement(mounts, "", False, compilers, environment, _callers_variables())
    return StoreAccess(inner, False, free_gb, on_engine, confinement, overlay)


def _overlays_of_volume(helper: Helper, store: TorchStore, on_engine: PurePath) -> tuple[str, ...] | None:
    """The options of overlays over the volume; None where the engine cannot make any."""
    from docker.errors import APIError, ContainerError  # noqa: PLC0415

    options = _overlay_options(helper.daemon)
    folder = store.root / "overlay"
    folders = [str(folder / name) for name in ("lower/ready", "upper", "work")]
    try:
        helper.run(["mkdir", "-p", *folders], _volume_mount(helper, store))
        trial = _overlay_mount(
            str(folder / "trial"), _overlay(on_engine / "overlay/lower", on_engine / "overlay", options)
        )
        helper.run(["mv", "-T", str(folder / "trial/ready"), str(folder / "trial/renamed")], trial)
        return options
    except (APIError, ContainerError):
        return None
    finally:
        helper.run(["rm", "-rf", str(folder)], _volume_mount(helper, store))


def _volume_mount(helper: Helper, store: TorchStore) -> Mount:
    from docker.types import Mount  # noqa: PLC0415

    return Mount(str(store.root), helper.volume, type="volume")


def _prime_volume(helper: Helper, store: TorchStore, files: Mapping[str, Path]) -> float:
    """Put `files` into the volume, remove what killed farms left in it, and return what is free there in GB."""
    volume = _volume_mount(helper, store)
    script = 'rm -rf "$2"; mkdir -p "$1/settings" "$1/envs" "$1/uv"; df -B1 --output=avail "$1"'
    words = ["sh", "-c", script, "sh", str(store.root), str(store.environment(""))]
    free_gb = int(helper.run(words, volume).split()[-1]) / 1e9
    settings = {f"settings/{name}": path for name, path in files.items()}
    _copy_files(helper, volume, settings)
    return free_gb


def _store_mount(helper: Helper, access: StoreAccess) -> Mount:
    from docker.types import Mount  # noqa: PLC0415

    if access.shared:
        return Mount(str(access.store.root), str(access.store.root), type="bind")
    return _volume_mount(helper, access.store)


def put_folder(helper: Helper, access: StoreAccess, folder: Path, name: str) -> Path:
    """Put a folder of this machine into the volume under `name`, unless it is there; returns its path in containers.

    The folder appears complete or not at all; its files are compared by SHA-256 each time.
    """
    # The farms of this machine share the volume, and this folder of notes: of two that put the same there, the second
    # finds it.
    with locks.hold(access.store.root / "locks" / "volume", busy=lambda: time.sleep(_POLL_S)):
        return _put_folder(helper, access, folder, name)


def _put_folder(helper: Helper, access: StoreAccess, folder: Path, name: str) -> Path:
    target = access.store.root / name
    volume = _volume_mount(helper, access.store)
    # Lines as sha256sum prints them, in the order of their text on both sides.
    wanted_sums = sorted([f"{sha256(path)}  {path.name}" for path in folder.iterdir()])
    sums = 'cd "$1" 2> /dev/null && sha256sum -- * || true'
    output = helper.run(["sh", "-c", sums, "sh", str(target)], volume)
    if sorted(output.splitlines()) != wanted_sums:
        # Under a name of its own until it is complete: the farm may be killed in between.
        scratch = f"{name}.{uuid.uuid4().hex[:12]}"
        helper.run(["sh", "-c", 'rm -rf "$1" && mkdir -p "$2"', "sh", str(target), str(target.parent)], volume)
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
    container = helper.client.containers.create(
        helper.image, "true", platform=oci_platform(helper.platform), labels=helper.labels.all(), mounts=[volume]
    )
    try:
        container.put_archive(volume["Target"], stream.getvalue())
    finally:
        container.remove(force=True, v=True)


def read_file(helper: Helper, access: StoreAccess, path: Path) -> str:
    """The text of a file in the volume that foreign code may have written; empty where there is no regular one."""
    script = f'test -f "$1" && ! test -L "$1" && head -c {_MOST_BYTES} "$1" || true'
    return helper.run(["sh", "-c", script, "sh", str(path)], _volume_mount(helper, access.store))


def remove_folder(helper: Helper, access: StoreAccess, folder: Path) -> None:
    """Remove a folder of the store as root of a container."""
    helper.run(["rm", "-rf", str(folder)], _store_mount(helper, access))
