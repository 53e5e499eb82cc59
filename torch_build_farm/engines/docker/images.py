"""Container images: the base that a variant names, and the farm's own layer over it."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import tarfile
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

import jinja2
import requests

from torch_build_farm.core import tools
from torch_build_farm.core.errors import ConfigError, DiskError, EngineError, ImageError
from torch_build_farm.core.machine import ARM64, X86_64, Machine
from torch_build_farm.core.process import Shell
from torch_build_farm.engines.docker import image_tools
from torch_build_farm.engines.docker.client import ARCHITECTURES, oci_platform
from torch_build_farm.engines.docker.pinned import pins
from torch_build_farm.engines.prefixes import SCRIPT, Preparation, given_prefixes, library_path, preparation
from torch_build_farm.project.settings import Project, Settings

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.errors import APIError
    from docker.models.images import Image

# The images that ci/base-image makes.
STAND_INS = {X86_64: "torch-build-farm-base:latest", ARM64: "torch-build-farm-base:aarch64"}
_STAND_IN_WITH_CUDA = "torch-build-farm-base:builder"  # what it makes with --builder: nvcc 12.4
_BUILDER_WITH_CUDA = re.compile(r"pytorch/manylinux\w+-builder:cuda12\.\d+(?:@sha256:[0-9a-f]{64})?")
LABEL = "torch-build-farm"
_REPOSITORY = "torch-build-farm"
_TOOLS = "/opt/torch-build-farm"  # the farm's uv, CMake and ninja in its images
UV = Path(_TOOLS) / "bin" / "uv"
_PREPARE = "prepare"  # in the context of an image's build
_PREFIX = PurePosixPath("/opt/torch-build-farm-prefix")  # where `prepare` installs dependencies
_OTHER_WAYS_OUT = "name another with --base-image, or build on this machine: --engine local"
_WAYS_OUT_WITH_CUDA = (
    "make one with nvcc here: ci/base-image --suite trixie --builder "
    f"(tagged {_STAND_IN_WITH_CUDA}, which is then used), {_OTHER_WAYS_OUT}"
)


@dataclass(frozen=True)
class Base:
    """A base image: the name it was requested by, its reference, whose programs it holds, its ID.

    The ID is empty for an image that is not on the engine yet. `digest` names the image itself in its registry, as
    repository@sha256:...; empty where it came from none.
    """

    requested: str
    reference: str
    platform: Machine
    id: str
    digest: str = ""

    @property
    def note(self) -> str:
        """For people: which image, and why."""
        if self.reference == _stand_in(self.requested, self.platform) != self.requested:
            pinned = "cibuildwheel's " if self.requested in pins(self.platform) else ""
            return (
                f"{self.reference}, made by ci/base-image, in place of {pinned}{self.requested} (--base-image "
                f"{self.requested} takes that)"
            )
        if not self.id:
            return f"{self.reference} (to be pulled)"
        if self.digest and "@" not in self.reference:
            return f"{self.reference}, by a tag that may move; {self.digest} names this very image"
        return self.reference


def find_base(client: DockerClient, requested: str, platform: Machine, stand_in: bool) -> Base:
    """The image for `requested`, a name that cibuildwheel pins or a reference, to build for a platform in.

    If the engine has it, that; else for a name that cibuildwheel pins, and for PyTorch's builder images, the stand-in
    that ci/base-image makes, where `stand_in` allows it; else the image is to be pulled. Raises ImageError where what
    the engine has under that name is for another platform.
    """
    reference = pins(platform).get(requested, requested)
    image = _image(client, reference)
    if image:
        return _base(requested, reference, platform, image)
    made_here = _stand_in(requested, platform) if stand_in else ""
    image = _image(client, made_here) if made_here else None
    if image:
        return _base(requested, made_here, platform, image)
    return Base(requested, reference, platform, "")


def _base(requested: str, reference: str, platform: Machine, image: Image) -> Base:
    """An image that the engine has, as a base. Raises ImageError where it is for another platform."""
    architecture = image.attrs["Architecture"]
    if architecture != ARCHITECTURES[platform]:
        raise ImageError(
            f"the image {reference} is for {architecture}, and wheels for {platform.words} need one for "
            f"{ARCHITECTURES[platform]}",
            next_step=ways_out(requested, platform),
        )
    return Base(requested, reference, platform, str(image.id), _digest(image))


def _stand_in(requested: str, platform: Machine) -> str:
    """The image of ci/base-image that can take the place of the requested one; empty where none can."""
    if requested in pins(platform):
        return STAND_INS[platform]
    return _STAND_IN_WITH_CUDA if _is_builder_with_cuda(requested, platform) else ""


def _is_builder_with_cuda(requested: str, platform: Machine) -> bool:
    """Whether it is one of PyTorch's builder images with CUDA 12, which no torch for arm64 is built with."""
    return platform == X86_64 and _BUILDER_WITH_CUDA.fullmatch(requested) is not None


def ways_out(requested: str, platform: Machine) -> str:
    """What a user can do where the requested image cannot be had."""
    if _is_builder_with_cuda(requested, platform):
        return _WAYS_OUT_WITH_CUDA
    return (
        f"make a base image here: ci/base-image --platform {platform} (tagged {STAND_INS[platform]}, which is then "
        f"used), {_OTHER_WAYS_OUT}"
    )


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
        platform = oci_platform(base.platform)
        _follow(client.api.pull(base.reference, stream=True, decode=True, platform=platform), shell)
        image = client.images.get(base.reference)
    except (APIError, ImageError) as error:
        what = f"the image {base.reference} cannot be pulled"
        if base.requested != base.reference:
            what += f" ({base.requested}, as cibuildwheel pins it)"
        raise ImageError(what, where=_reason(error), next_step=ways_out(base.requested, base.platform)) from None
    return _base(base.requested, base.reference, base.platform, image)


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


def _context(layer: Layer, tools_files: Mapping[str, bytes]) -> bytes:
    """The build context of the farm's layer: its Dockerfile, the farm's tools, and what `prepare` uses.

    Files' dates do not count.
    """
    entries = {"Dockerfile": layer.dockerfile.encode()}
    for name, content in tools_files.items():
        entries[f"tools/{name}"] = content
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


def make_layer(client: DockerClient, engine: Machine, layer: Layer, labels: Mapping[str, str], shell: Shell) -> str:
    """Build the layer unless the engine, whose own platform is `engine`, has it; returns its tag.

    Raises ImageError or DiskError, and PackageIndexError where the index has not the tools for another platform.
    """
    if _image(client, layer.tag):
        return layer.tag
    from docker.errors import APIError  # noqa: PLC0415

    shell.say(f"building the image {layer.tag} over {layer.base.reference}")

    # Docker passes these on to every Dockerfile without an ARG for them, and keeps them out of the image's history.
    proxies = {name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")}
    stream = client.api.build(
        fileobj=io.BytesIO(_context(layer, image_tools.files_for(layer.base.platform, engine, shell))),
        custom_context=True,
        platform=oci_platform(layer.base.platform),
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
