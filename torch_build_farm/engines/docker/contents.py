"""What is in a base image: a container of it is asked once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from torch_build_farm.core.errors import EngineError, ImageError
from torch_build_farm.core.files import replace_text
from torch_build_farm.core.machine import Machine
from torch_build_farm.core.text import printable
from torch_build_farm.core.versions import CPython
from torch_build_farm.engines.base import Interpreter
from torch_build_farm.engines.docker.client import ARCHITECTURES, oci_platform
from torch_build_farm.engines.docker.images import Base, ways_out
from torch_build_farm.engines.docker.pinned import identifiers

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.errors import APIError, ContainerError

_WORDS = 500  # characters of what the engine says
_PROBE = files("torch_build_farm").joinpath("data/probe-image.sh").read_text("utf-8")


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

    def interpreters(self, platform: Machine) -> dict[CPython, Interpreter]:
        """The CPythons that cibuildwheel can build for on the image's platform."""
        interpreters = {}
        for tag, (version, path, _) in self.pythons.items():
            python = CPython.parse(tag)
            if python in identifiers(platform):
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
        return _output(client, base, labels, _PROBE)
    except (APIError, ContainerError) as error:
        raise ImageError(
            f"nothing runs in the image {base.reference}",
            where=_words_of(error),
            next_step=ways_out(base.requested, base.platform),
        ) from None


def check_emulation(client: DockerClient, base: Base, labels: Mapping[str, str]) -> None:
    """Raise EngineError where an engine of another platform than the image's starts none of the image's programs.

    It does so where QEMU is registered with its kernel (binfmt_misc), which a restart may undo: ask each run.
    """
    from docker.errors import APIError, ContainerError  # noqa: PLC0415

    try:
        _output(client, base, labels, "exit 0")
    except (APIError, ContainerError) as error:
        platform = base.platform
        raise EngineError(
            f"the Docker engine runs no programs for {platform.words}, which is not its own platform",
            where=f"in a container of {base.reference}: {_words_of(error)}",
            next_step="let QEMU run them on the engine's machine: `ci/qemu` (Debian, as root) or "
            f"`docker run --privileged --rm tonistiigi/binfmt --install {ARCHITECTURES[platform]}`; "
            "or build on this machine: --engine local",
        ) from None


def _output(client: DockerClient, base: Base, labels: Mapping[str, str], script: str) -> str:
    """What a shell script prints in a container of the image."""
    output: bytes = client.containers.run(
        base.id,
        ["/bin/sh", "-c", script],
        platform=oci_platform(base.platform),
        remove=True,
        network_disabled=True,
        labels=dict(labels),
        security_opt=["no-new-privileges"],
    )
    return output.decode("utf-8", "replace")


def _words_of(error: APIError | ContainerError) -> str:
    """The engine's words about a container that did not start or failed."""
    from docker.errors import ContainerError  # noqa: PLC0415

    if isinstance(error, ContainerError):
        words = error.stderr or f"exit code {error.exit_status}"
        return printable(words.decode("utf-8", "replace").strip() if isinstance(words, bytes) else words, _WORDS)
    return printable(str(error.explanation), _WORDS)


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
