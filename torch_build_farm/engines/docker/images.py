"""Container images: the base that a variant names, what is in it, and the farm's own layer over it."""

from __future__ import annotations

import configparser
import hashlib
import io
import json
import os
import tarfile
import threading
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

import cmake
import jinja2
import ninja

from torch_build_farm.core import tools
from torch_build_farm.core.errors import DiskError, EngineError, ImageError
from torch_build_farm.core.files import replace_text
from torch_build_farm.core.process import Shell
from torch_build_farm.core.versions import CPython
from torch_build_farm.engines.base import Interpreter
from torch_build_farm.project.settings import Project

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.errors import APIError

STAND_IN = "torch-build-farm-base:latest"  # what ci/base-image makes
LABEL = "torch-build-farm"
_REPOSITORY = "torch-build-farm"
_TOOLS = "/opt/torch-build-farm"  # the farm's uv, CMake and ninja in its images
UV = Path(_TOOLS) / "bin" / "uv"
_PROBE = files("torch_build_farm").joinpath("data/probe-image.sh").read_text("utf-8")
WAYS_OUT = (
    f"make a base image here: ci/base-image (tagged {STAND_IN}, which is then used), "
    "name another with --base-image, or build on this machine: --engine local"
)


@cache
def pins() -> Mapping[str, str]:
    """The manylinux images that this cibuildwheel pins, by name, such as manylinux_2_28 (its data file)."""
    parser = configparser.ConfigParser(inline_comment_prefixes="#")
    parser.read_string(files("cibuildwheel").joinpath("resources/pinned_docker_images.cfg").read_text("utf-8"))
    return {name: value for name, value in parser["x86_64"].items() if name.startswith("manylinux")}


@cache
def identifiers() -> Mapping[CPython, str]:
    """The build identifier of every CPython that this cibuildwheel knows (its data file)."""
    text = files("cibuildwheel").joinpath("resources/build-platforms.toml").read_text("utf-8")
    found = {}
    for configuration in tomllib.loads(text)["linux"]["python_configurations"]:
        tag, _, platform = configuration["identifier"].partition("-")
        if platform == "manylinux_x86_64" and tag.startswith("cp"):
            found[CPython.parse(tag)] = configuration["identifier"]
    return found


@dataclass(frozen=True)
class Base:
    """A base image: what it was asked for as, its reference, its ID (empty: not on the engine yet)."""

    asked: str
    reference: str
    id: str

    @property
    def note(self) -> str:
        """For people: which image, and why."""
        if self.reference == STAND_IN and self.asked != STAND_IN:
            return (
                f"{STAND_IN}, made by ci/base-image, in place of cibuildwheel's {self.asked} (--base-image "
                f"{self.asked} takes that)"
            )
        return self.reference if self.id else f"{self.reference} (to be pulled)"


def find_base(client: DockerClient, asked: str, stand_in: bool) -> Base:
    """The image for `asked`, a name that cibuildwheel pins or a reference: as the engine has it, else for a pin, where
    that is allowed, the stand-in made here, else to be pulled.
    """
    reference = pins().get(asked, asked)
    if found := _id(client, reference):
        return Base(asked, reference, found)
    if stand_in and asked in pins() and (found := _id(client, STAND_IN)):
        return Base(asked, STAND_IN, found)
    return Base(asked, reference, "")


def _id(client: DockerClient, reference: str) -> str:
    from docker.errors import APIError  # noqa: PLC0415

    try:
        return str(client.images.get(reference).id)
    except APIError as error:
        if error.status_code in (400, 404):  # no reference at all, or none that is here: pulling it tells
            return ""
        raise


def pull(client: DockerClient, base: Base, shell: Shell) -> Base:
    """Pull the image. Raises ImageError with the ways out where it cannot be had."""
    from docker.errors import APIError  # noqa: PLC0415

    shell.say(f"pulling {base.reference}")
    try:
        _follow(client.api.pull(base.reference, stream=True, decode=True), shell)
        return Base(base.asked, base.reference, str(client.images.get(base.reference).id))
    except (APIError, ImageError) as error:
        what = f"the image {base.reference} cannot be pulled"
        name = f" ({base.asked}, as cibuildwheel pins it)" if base.asked != base.reference else ""
        raise ImageError(what + name, where=_reason(error), next_step=WAYS_OUT) from None


def _while_running(stream: Iterator[Mapping[str, Any]], shell: Shell) -> Iterator[Mapping[str, Any]]:
    """What the stream yields, read in a thread, so that a quiet engine does not keep the run from being cancelled.

    The engine gives up a build or pull when the farm ends, and with it the connection.
    """
    said: SimpleQueue[Mapping[str, Any] | Exception | None] = SimpleQueue()

    def listen() -> None:
        try:
            for message in stream:
                said.put(message)
            said.put(None)
        except Exception as error:  # raised again where it is read
            said.put(error)

    threading.Thread(target=listen, daemon=True).start()
    while True:
        shell.runner.check()
        try:
            message = said.get(timeout=0.2)
        except Empty:
            continue
        if isinstance(message, Exception):
            raise message
        if message is None:
            return
        yield message


def _reason(error: APIError | ImageError) -> str:
    """The engine's words, whether it refused at once or in the middle."""
    return error.what if isinstance(error, ImageError) else str(error.explanation)


def _follow(stream: Iterator[Mapping[str, Any]], shell: Shell) -> None:
    """Write what the engine says to the log; ends when it does, or with Interrupted. Raises ImageError on its error."""
    with shell.log.open("a", encoding="utf-8", buffering=1) as log:
        for message in _while_running(stream, shell):
            text = str(message.get("stream") or message.get("status") or "").strip()
            if text and "progress" not in message:
                log.write(f"{text}\n")
            if "error" in message:
                raise ImageError(str(message["error"]).strip(), where=str(shell.log))


@dataclass(frozen=True)
class Contents:
    """What is in an image. `pythons` maps tags such as cp311 to [version, path, version of build]; `lacking` are names
    of programs that cibuildwheel or the farm needs and that are not there.
    """

    pythons: Mapping[str, tuple[str, str, str]]
    compiler: str
    auditwheel: str
    nvcc: str
    lacking: tuple[str, ...]

    def interpreters(self) -> dict[CPython, Interpreter]:
        """The CPythons that cibuildwheel can build for."""
        found = {CPython.parse(tag): Interpreter(row[0], Path(row[1])) for tag, row in self.pythons.items()}
        return {python: interpreter for python, interpreter in found.items() if python in identifiers()}


def look_into(client: DockerClient, base: Base, cache_folder: Path, labels: Mapping[str, str]) -> Contents:
    """What is in an image that is on the engine; asked in a container once for each image, then kept as a file."""
    key = hashlib.sha256(f"{base.id}\n{_PROBE}".encode()).hexdigest()[:16]
    path = cache_folder / f"{key}.json"
    if path.is_file():
        kept = json.loads(path.read_text("utf-8"))
        return Contents(**{**kept, "pythons": {tag: tuple(row) for tag, row in kept["pythons"].items()}})
    contents = _parse(_ask(client, base, labels))
    replace_text(path, json.dumps(asdict(contents), indent=1))
    return contents


def _ask(client: DockerClient, base: Base, labels: Mapping[str, str]) -> str:
    from docker.errors import APIError, ContainerError  # noqa: PLC0415

    try:
        said: bytes = client.containers.run(
            base.id,
            ["/bin/sh", "-c", _PROBE],
            remove=True,
            network_disabled=True,
            labels=dict(labels),
            security_opt=["no-new-privileges"],
        )
    except (APIError, ContainerError) as error:
        raise ImageError(
            f"nothing runs in the image {base.reference}", where=str(error)[:500], next_step=WAYS_OUT
        ) from None
    return said.decode("utf-8", "replace")


def _parse(text: str) -> Contents:
    pythons: dict[str, tuple[str, str, str]] = {}
    facts = {"compiler": "", "auditwheel": "", "nvcc": ""}
    lacking = []
    for line in text.splitlines():
        key, *values = line.split("\t")
        if key == "python" and len(values) == 4:
            pythons[values[0]] = (values[1], values[2], values[3])
        elif key == "lacking":
            lacking.append(values[0])
        elif key in facts and values:
            facts[key] = values[0]
    return Contents(pythons, lacking=tuple(lacking), **facts)


def _context(dockerfile: str) -> bytes:
    """The build context of the farm's layer: its Dockerfile, uv, CMake and ninja, whatever this machine's dates are."""
    share = next(Path(str(cmake.CMAKE_DATA)).glob("share/cmake-*"))
    programs = {
        "uv": tools.uv(),
        "cmake": Path(cmake.CMAKE_BIN_DIR) / "cmake",
        "ninja": Path(ninja.BIN_DIR) / "ninja",
    }
    content = {f"tools/bin/{name}": path for name, path in programs.items()}
    content |= {
        f"tools/share/{share.name}/{path.relative_to(share)}": path
        for path in sorted(share.rglob("*"))
        if path.is_file() and path.relative_to(share).parts[0] != "Help"
    }
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        entries = {"Dockerfile": dockerfile.encode(), **{name: path.read_bytes() for name, path in content.items()}}
        for name, data in entries.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), 0o755 if "/bin/" in name else 0o644
            archive.addfile(info, io.BytesIO(data))
    return stream.getvalue()


@dataclass(frozen=True)
class Layer:
    """The farm's layer over a base image. The tag is the hash of all that goes into it."""

    base: Base
    dockerfile: str
    tag: str


def plan_layer(project: Project, base: Base, user: str) -> Layer:
    """The layer over `base`, with the project's system packages; `user` (uid:gid) owns what cibuildwheel writes to."""
    loader = jinja2.FileSystemLoader(project.template_folders)
    environment = jinja2.Environment(
        loader=loader, undefined=jinja2.StrictUndefined, trim_blocks=True, keep_trailing_newline=True, autoescape=False
    )
    packages = project.settings.system_packages
    text = environment.get_template("Dockerfile.j2").render(base=base, packages=packages, tools=_TOOLS, user=user)
    versions = {name: v for name, v in tools.versions().items() if name in ("uv", "cmake", "ninja")}
    inputs = json.dumps([base.id or base.reference, text, versions], sort_keys=True)
    return Layer(base, text, f"{_REPOSITORY}:{hashlib.sha256(inputs.encode()).hexdigest()[:16]}")


def make_layer(client: DockerClient, layer: Layer, labels: Mapping[str, str], shell: Shell) -> str:
    """Build the layer unless the engine has it; returns its tag. Raises ImageError, or DiskError."""
    if _id(client, layer.tag):
        return layer.tag
    from docker.errors import APIError  # noqa: PLC0415

    shell.say(f"making the image {layer.tag} over {layer.base.reference}")
    stream = client.api.build(
        fileobj=io.BytesIO(_context(layer.dockerfile)),
        custom_context=True,
        tag=layer.tag,
        labels=dict(labels),
        buildargs={k: v for k, v in os.environ.items() if k.lower().endswith("_proxy")},  # known to every Dockerfile
        rm=True,
        forcerm=True,
        decode=True,
    )
    try:
        _follow(stream, shell)
    except (APIError, ImageError) as error:
        reason = _reason(error)
        if "no space left" in reason.lower():
            raise DiskError(
                f"the engine's disk is full: {reason}", where=str(shell.log), next_step="free some and run again"
            ) from None
        raise ImageError(
            f"the image over {layer.base.reference} cannot be made: {reason}",
            where=str(shell.log),
            next_step="the log holds the whole output; the system-packages of the project are installed there",
        ) from None
    if not _id(client, layer.tag):
        raise EngineError("the Docker engine went away while it made an image", next_step="run again")
    return layer.tag
