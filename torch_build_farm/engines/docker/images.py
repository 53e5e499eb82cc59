"""Container images: the base that a variant names, what is in it, and the farm's own layer over it."""

from __future__ import annotations

import configparser
import hashlib
import io
import json
import os
import re
import tarfile
import threading
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path, PurePath, PurePosixPath
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

import cmake
import jinja2
import ninja
import requests

from torch_build_farm.core import tools
from torch_build_farm.core.errors import ConfigError, DiskError, EngineError, ImageError
from torch_build_farm.core.files import replace_text
from torch_build_farm.core.process import Shell
from torch_build_farm.core.versions import CPython
from torch_build_farm.engines.base import Interpreter
from torch_build_farm.engines.prefixes import SCRIPT, Preparation, given_prefixes, library_path, preparation
from torch_build_farm.project.settings import Project, Settings

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.errors import APIError
    from docker.models.images import Image

STAND_IN = "torch-build-farm-base:latest"  # the image that ci/base-image makes
_STAND_IN_WITH_CUDA = "torch-build-farm-base:builder"  # what it makes with --builder: nvcc 12.4
_BUILDER_WITH_CUDA = re.compile(r"pytorch/manylinux\w+-builder:cuda12\.\d+(?:@sha256:[0-9a-f]{64})?")
LABEL = "torch-build-farm"
_REPOSITORY = "torch-build-farm"
_TOOLS = "/opt/torch-build-farm"  # the farm's uv, CMake and ninja in its images
UV = Path(_TOOLS) / "bin" / "uv"
_PREPARE = "prepare"  # in the context of an image's build
_PREFIX = PurePosixPath("/opt/torch-build-farm-prefix")  # where `prepare` installs dependencies
_PROBE = files("torch_build_farm").joinpath("data/probe-image.sh").read_text("utf-8")
_OTHER_WAYS_OUT = "name another with --base-image, or build on this machine: --engine local"
WAYS_OUT = f"make a base image here: ci/base-image (tagged {STAND_IN}, which is then used), {_OTHER_WAYS_OUT}"
_WAYS_OUT_WITH_CUDA = (
    "make one with nvcc here: ci/base-image --suite trixie --builder "
    f"(tagged {_STAND_IN_WITH_CUDA}, which is then used), {_OTHER_WAYS_OUT}"
)


@cache
def pins() -> Mapping[str, str]:
    """The manylinux images that this cibuildwheel pins, by name, such as manylinux_2_28 (its data file)."""
    parser = configparser.ConfigParser(inline_comment_prefixes="#")
    parser.read_string(files("cibuildwheel").joinpath("resources/pinned_docker_images.cfg").read_text("utf-8"))
    # The section has musllinux's images too, in which no wheel of torch runs.
    return {name: value for name, value in parser["x86_64"].items() if name.startswith("manylinux")}


@cache
def identifiers() -> Mapping[CPython, str]:
    """The build identifier of every CPython that this cibuildwheel knows (its data file)."""
    text = files("cibuildwheel").joinpath("resources/build-platforms.toml").read_text("utf-8")
    by_python = {}
    for configuration in tomllib.loads(text)["linux"]["python_configurations"]:
        tag, _, platform = configuration["identifier"].partition("-")
        if platform == "manylinux_x86_64" and tag.startswith("cp"):
            by_python[CPython.parse(tag)] = configuration["identifier"]
    return by_python


@dataclass(frozen=True)
class Base:
    """A base image: the name it was requested by, its reference, its ID (empty: not on the engine yet).

    `digest` names the image itself in its registry, as repository@sha256:...; empty where it came from none.
    """

    requested: str
    reference: str
    id: str
    digest: str = ""

    @property
    def note(self) -> str:
        """For people: which image, and why."""
        if self.reference in (STAND_IN, _STAND_IN_WITH_CUDA) and self.requested != self.reference:
            pinned = "cibuildwheel's " if self.requested in pins() else ""
            return (
                f"{self.reference}, made by ci/base-image, in place of {pinned}{self.requested} (--base-image "
                f"{self.requested} takes that)"
            )
        if not self.id:
            return f"{self.reference} (to be pulled)"
        if self.digest and "@" not in self.reference:
            return f"{self.reference}, by a tag that may move; {self.digest} names this very image"
        return self.reference


def find_base(client: DockerClient, requested: str, stand_in: bool) -> Base:
    """The image for `requested`, a name that cibuildwheel pins or a reference.

    If the engine has it, that; else for a name that cibuildwheel pins, and for PyTorch's builder images, the stand-in
    that ci/base-image makes, where `stand_in` allows it; else the image is to be pulled.
    """
    reference = pins().get(requested, requested)
    image = _image(client, reference)
    if image:
        return Base(requested, reference, str(image.id), _digest(image))
    made_here = _stand_in(requested) if stand_in else ""
    image = _image(client, made_here) if made_here else None
    if image:
        return Base(requested, made_here, str(image.id))
    return Base(requested, reference, "")


def _stand_in(requested: str) -> str:
    """The image of ci/base-image that can take the place of the requested one; empty where none can."""
    if requested in pins():
        return STAND_IN
    return _STAND_IN_WITH_CUDA if _BUILDER_WITH_CUDA.fullmatch(requested) else ""


def ways_out(requested: str) -> str:
    """What a user can do where the requested image cannot be had."""
    return _WAYS_OUT_WITH_CUDA if _BUILDER_WITH_CUDA.fullmatch(requested) else WAYS_OUT


def _digest(image: Image) -> str:
    """What names an image of the engine in its registry; empty for one that was made here."""
    digests: list[str] = image.attrs.get("RepoDigests") or []
    return digests[0] if digests else ""


def registry_digest(client: DockerClient, reference: str) -> str:
    """The digest, as sha256:..., that the registry has for a reference; empty where no registry answers.

    The engine asks the registry, as it would to pull the image.
    """
    from docker.errors import DockerException  # noqa: PLC0415

    try:
        return str(client.images.get_registry_data(reference).id)
    except (DockerException, requests.RequestException):
        return ""


def _image(client: DockerClient, reference: str) -> Image | None:
    """An image that the engine has; None where it has none of that reference."""
    from docker.errors import APIError  # noqa: PLC0415

    try:
        return client.images.get(reference)
    except APIError as error:
        if error.status_code in (400, 404):  # not a valid reference, or not on the engine: pulling it shows which
            return None
        raise


def pull(client: DockerClient, base: Base, shell: Shell) -> Base:
    """Pull the image. Raises ImageError with the ways out where it cannot be had."""
    from docker.errors import APIError  # noqa: PLC0415

    shell.say(f"pulling {base.reference}")
    try:
        _follow(client.api.pull(base.reference, stream=True, decode=True), shell)
        image = client.images.get(base.reference)
        return Base(base.requested, base.reference, str(image.id), _digest(image))
    except (APIError, ImageError) as error:
        what = f"the image {base.reference} cannot be pulled"
        if base.requested != base.reference:
            what += f" ({base.requested}, as cibuildwheel pins it)"
        raise ImageError(what, where=_reason(error), next_step=ways_out(base.requested)) from None


def _follow(stream: Iterator[Mapping[str, Any]], shell: Shell) -> None:
    """Write the engine's messages to the log until they end. Raises ImageError for its error, or Interrupted."""
    with shell.log.open("a", encoding="utf-8", buffering=1) as log:
        for message in _while_running(stream, shell):
            text = str(message.get("stream") or message.get("status") or "").strip()
            if text and "progress" not in message:
                log.write(f"{text}\n")
            if "error" in message:
                raise ImageError(str(message["error"]).strip(), where=str(shell.log))


def _while_running(stream: Iterator[Mapping[str, Any]], shell: Shell) -> Iterator[Mapping[str, Any]]:
    """Messages of the stream, read in a thread, so that a run can be cancelled while the engine is quiet.

    The engine gives up a build or pull when the farm ends, and with it the connection.
    """
    messages: SimpleQueue[Mapping[str, Any] | Exception | None] = SimpleQueue()

    def listen() -> None:
        try:
            for message in stream:
                messages.put(message)
            messages.put(None)  # the stream has ended
        except Exception as error:  # raised again where it is read
            messages.put(error)

    threading.Thread(target=listen, daemon=True).start()
    while True:
        shell.runner.check()
        try:
            message = messages.get(timeout=0.2)
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


@dataclass(frozen=True)
class Contents:
    """What is in an image.

    `pythons` maps tags such as cp311 to [version, path, version of build], `linker_flags` to the flags by which that
    CPython links extensions. `lacking` are names of programs that cibuildwheel or the farm needs and that are absent.
    """

    pythons: Mapping[str, tuple[str, str, str]]
    compiler: str
    auditwheel: str
    nvcc: str
    lacking: tuple[str, ...]
    linker_flags: Mapping[str, str]

    def interpreters(self) -> dict[CPython, Interpreter]:
        """The CPythons that cibuildwheel can build for."""
        interpreters = {}
        for tag, (version, path, _) in self.pythons.items():
            python = CPython.parse(tag)
            if python in identifiers():
                interpreters[python] = Interpreter(version, Path(path))
        return interpreters


def look_into(client: DockerClient, base: Base, cache_folder: Path, labels: Mapping[str, str]) -> Contents:
    """What is in an image that the engine has. A container probes each image once; the answer is kept as a file."""
    # By image and script: a farm that asks other questions must not take an old answer.
    key = hashlib.sha256(f"{base.id}\n{_PROBE}".encode()).hexdigest()[:16]
    path = cache_folder / f"{key}.json"
    if path.is_file():
        fields = json.loads(path.read_text("utf-8"))
        fields["pythons"] = {tag: tuple(row) for tag, row in fields["pythons"].items()}
        fields["lacking"] = tuple(fields["lacking"])
        return Contents(**fields)
    contents = _parse(_probe(client, base, labels))
    replace_text(path, json.dumps(asdict(contents), indent=1))
    return contents


def _probe(client: DockerClient, base: Base, labels: Mapping[str, str]) -> str:
    """The output of data/probe-image.sh in a container of the image."""
    from docker.errors import APIError, ContainerError  # noqa: PLC0415

    try:
        output: bytes = client.containers.run(
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
    return output.decode("utf-8", "replace")


def _parse(text: str) -> Contents:
    """The probe's output: a key and its values a line, separated by tabs."""
    pythons: dict[str, tuple[str, str, str]] = {}
    facts = {"compiler": "", "auditwheel": "", "nvcc": ""}
    lacking = []
    linker_flags = {}
    for line in text.splitlines():
        key, *values = line.split("\t")
        if key == "python" and len(values) == 4:
            pythons[values[0]] = (values[1], values[2], values[3])
        elif key == "linker-flags" and len(values) == 2:
            linker_flags[values[0]] = values[1]
        elif key == "lacking":
            lacking.append(values[0])
        elif key in facts and values:
            facts[key] = values[0]
    return Contents(pythons, lacking=tuple(lacking), linker_flags=linker_flags, **facts)


def _context(layer: Layer) -> bytes:
    """The build context of the farm's layer: its Dockerfile, uv, CMake and ninja, and what `prepare` uses.

    Files' dates do not count.
    """
    # Without CMake's manual, which a build does not read.
    entries = {
        "Dockerfile": layer.dockerfile.encode(),
        "tools/bin/uv": tools.uv().read_bytes(),
        "tools/bin/cmake": Path(cmake.CMAKE_BIN_DIR, "cmake").read_bytes(),
        "tools/bin/ninja": Path(ninja.BIN_DIR, "ninja").read_bytes(),
    }
    cmakes_share = next(Path(str(cmake.CMAKE_DATA)).glob("share/cmake-*"))
    for path in sorted(cmakes_share.rglob("*")):
        relative = path.relative_to(cmakes_share)
        if path.is_file() and relative.parts[0] != "Help":
            entries[f"tools/share/{cmakes_share.name}/{relative}"] = path.read_bytes()
    if layer.preparation:
        entries[f"{_PREPARE}/{SCRIPT}"] = layer.preparation.script.encode()
        for name, content in layer.preparation.files.items():
            entries[f"{_PREPARE}/{name}"] = content
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, content in entries.items():
            info = tarfile.TarInfo(name)  # owner, group and date are zero
            info.size = len(content)
            info.mode = 0o755 if name.startswith(("tools/bin/", f"{_PREPARE}/")) else 0o644
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


@dataclass(frozen=True)
class Layer:
    """The farm's layer over a base image. The tag is a hash of everything that goes into it."""

    base: Base
    dockerfile: str
    tag: str
    preparation: Preparation | None = None


def prefixes_of(settings: Settings) -> list[PurePath]:
    """The folders in which builds find dependencies, in containers of the project's images."""
    return [*([_PREFIX] if settings.prepare else []), *given_prefixes(settings)]


def plan_layer(project: Project, base: Base, user: str) -> Layer:
    """The layer over `base`, with the project's system packages and what it prepares.

    `user` (uid:gid) owns what cibuildwheel writes to. Raises ConfigError for a file of `prepare-files` that is not
    there, and for a project's own template that leaves `prepare` out.
    """
    loader = jinja2.FileSystemLoader(project.template_folders)
    environment = jinja2.Environment(
        loader=loader, undefined=jinja2.StrictUndefined, trim_blocks=True, keep_trailing_newline=True, autoescape=False
    )
    settings = project.settings
    prepared = preparation(project)
    # Projects may override this template: its names are part of their interface.
    base_names = {"asked": base.requested, "reference": base.reference, "id": base.id}
    text = environment.get_template("Dockerfile.j2").render(
        base=base_names,
        packages=settings.system_packages,
        tools=_TOOLS,
        user=user,
        prepare=f"{_PREPARE}/{SCRIPT}" if prepared else "",
        prefix=_PREFIX,
        library_path=library_path(prefixes_of(settings)),
    )
    if prepared and f"COPY {_PREPARE}" not in text:
        raise ConfigError(
            "the project's own Dockerfile.j2 leaves out what prepare does",
            where=str(project.root / "templates"),
            next_step="take the lines with `prepare` and `library_path` from the farm's template",
        )
    # The tag is a hash of what goes in, so that a layer with the same content is built once, and a plan can name it.
    versions = {name: tools.versions()[name] for name in ("uv", "cmake", "ninja")}
    inputs = json.dumps(
        [base.id or base.reference, text, versions, prepared.digest if prepared else ""], sort_keys=True
    )
    return Layer(base, text, f"{_REPOSITORY}:{hashlib.sha256(inputs.encode()).hexdigest()[:16]}", prepared)


def make_layer(client: DockerClient, layer: Layer, labels: Mapping[str, str], shell: Shell) -> str:
    """Build the layer unless the engine has it; returns its tag. Raises ImageError, or DiskError."""
    if _image(client, layer.tag):
        return layer.tag
    from docker.errors import APIError  # noqa: PLC0415

    shell.say(f"building the image {layer.tag} over {layer.base.reference}")

    # Docker passes these on to every Dockerfile without an ARG for them, and keeps them out of the image's history.
    proxies = {name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")}
    stream = client.api.build(
        fileobj=io.BytesIO(_context(layer)),
        custom_context=True,
        tag=layer.tag,
        labels=dict(labels),
        buildargs=proxies,
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
                f"the engine's disk is full: {reason}", where=str(shell.log), next_step="free some space and run again"
            ) from None
        raise ImageError(
            f"the image over {layer.base.reference} cannot be built: {reason}",
            where=str(shell.log),
            next_step="the log holds the whole output, that of system-packages and of prepare among it",
        ) from None

    # The stream also ends, without an error, where the connection to the engine does.
    if not _image(client, layer.tag):
        raise EngineError("the Docker engine went away while it built an image", next_step="run again")
    return layer.tag
