"""What each stage finds out about its job: typed for the farm, and as text for the JSON document.

A record on disk holds these dataclasses. The JSON document of a run has had text values from its first schema on;
`text` writes them, and nothing reads them back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, TypeVar

from pydantic import ConfigDict

from torch_build_farm.releases.sdk import LOCAL

# Each class has different fields and refuses all others: that is how pydantic recognizes the class of a record's facts.
_STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True)
class RenderFacts:
    """What a tree was rendered from.

    `source` names the source, such as "git URL@COMMIT"; `content` is the SHA-256 of the files that it contributes;
    `epoch` is SOURCE_DATE_EPOCH, in Unix seconds.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    version: str
    source: str
    content: str
    epoch: int

    @property
    def commit(self) -> str:
        """The commit of a git source; empty for other sources."""
        kind, _, place = self.source.partition(" ")
        # From the right: the URL may have an @ of its own, as in git@host.
        return place.rpartition("@")[2] if kind == "git" else ""

    def text(self) -> dict[str, str]:
        """For the JSON document."""
        return {"version": self.version, "source": self.source, "content": self.content, "epoch": str(self.epoch)}


@dataclass(frozen=True)
class BuildFacts:
    """How a wheel was built.

    `base_image` is what --base-image named, else empty; `built_with` is the part of torch that the build got, for
    people; `peak_mb` is the resident set of the largest process in MB (10^6 bytes), `compile_seconds` the time from
    ninja's first command to its last, None where they were not measured; `environment` holds the distributions of the
    build environment with their versions.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    engine: str
    base_image: str
    built_with: str
    peak_mb: float | None
    compile_seconds: float | None
    environment: tuple[tuple[str, str], ...]

    @property
    def torch_release(self) -> str:
        """The torch release in the environment, without its local version; empty where there was none."""
        # +cu128 and +sdk say how a torch was built, not which release it is.
        return dict(self.environment).get("torch", "").partition("+")[0]

    @property
    def constraints(self) -> tuple[str, ...]:
        """The environment as requirements, NAME==VERSION; torch's SDK counts as its torch."""
        requirements = []
        for name, version in self.environment:
            # No index has the SDK: it reaches builds by a constraint of the farm's own, beside these.
            pinned = version.removesuffix(f"+{LOCAL}") if name == "torch" else version
            requirements.append(f"{name}=={pinned}")
        return tuple(requirements)

    def text(self) -> dict[str, str]:
        """For the JSON document; what was not measured is left out."""
        text = {"engine": self.engine, "base-image": self.base_image, "built-with": self.built_with}
        if self.peak_mb is not None:
            text["peak-mb"] = f"{self.peak_mb:.0f}"
        if self.compile_seconds is not None:
            text["compile"] = f"{self.compile_seconds:.2f}"
        pins = [f"{name}=={version}" for name, version in self.environment]
        text["environment"] = " ".join(pins)
        return text


@dataclass(frozen=True)
class RepairFacts:
    """What a wheel asks of the user's machine.

    `tag` is its platform tag as auditwheel wrote it. `external_libraries` are patterns of the libraries that it needs
    and does not carry, with who brings them. `cpu_level` is the level of x86-64 that its code takes for granted,
    `device_code` are the architectures that it has GPU code for, such as ("compute_90", "sm_90").
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    tag: str
    external_libraries: Mapping[str, str] = field(default_factory=dict)
    cpu_level: str = "x86-64"
    device_code: tuple[str, ...] = ()

    def text(self) -> dict[str, str]:
        """For the JSON document; `device-code` is left out where there is none."""
        text = {"tag": self.tag, "cpu-level": self.cpu_level}
        if self.device_code:
            text["device-code"] = " ".join(self.device_code)
        return text


@dataclass(frozen=True)
class AuditFacts:
    """Which torch releases a wheel works with.

    `true_range` is the range of releases as text for people; `releases` has the verdict on each release, oldest first;
    `symbol_versions` are the highest versions of glibc and the C++ library that the wheel needs, one line per family.
    `fewer_variants` says what the wheel uses of torch if its project needs fewer variants than one for each minor.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    true_range: str
    releases: Mapping[str, str]
    symbol_versions: tuple[str, ...]
    fewer_variants: str = ""

    def text(self) -> dict[str, str]:
        """For the JSON document."""
        verdicts = [f"{release}={verdict}" for release, verdict in self.releases.items()]
        text = {
            "range": self.true_range,
            "releases": " ".join(verdicts),
            "asks-for": "; ".join(self.symbol_versions),
        }
        if self.fewer_variants:
            text["fewer-variants"] = self.fewer_variants
        return text


@dataclass(frozen=True)
class SmokeFacts:
    """What a wheel did beside its torch.

    `torch` and `cuda` are torch's own words for its version and its CUDA, `devices` what it ran on. A test of imports
    alone has neither `script`, the last line of the smoke script ("none" for a project without one), nor `refuses`, the
    torch that the resolver refused beside the wheel; a project with one minor has no torch to refuse. `tests` are the
    last lines of the project's test commands, in their order. `stubs` are the libraries of NVIDIA's driver that the
    wheel needs and that were replaced by stubs: it was imported, and not run on a GPU. `oldest` is the version of the
    oldest torch, with which a wheel of the stable ABI did the same. `core` is the wheel of the core that it was tested
    beside.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    torch: str
    cuda: str
    devices: tuple[str, ...]
    imports: tuple[str, ...]
    script: str | None = None
    refuses: str | None = None
    tests: tuple[str, ...] = ()
    stubs: tuple[str, ...] = ()
    oldest: str | None = None
    core: str | None = None

    def text(self) -> dict[str, str]:
        """For the JSON document; what was not tested is left out."""
        text = {
            "torch": self.torch,
            "cuda": self.cuda,
            "devices": ", ".join(self.devices),
            "imports": ", ".join(self.imports),
        }
        if self.script is not None:
            text["script"] = self.script
        if self.refuses is not None:
            text["refuses"] = self.refuses
        if self.tests:
            text["tests"] = "; ".join(self.tests)
        if self.stubs:
            text["stubs"] = ", ".join(self.stubs)
        if self.oldest is not None:
            text["oldest"] = self.oldest
        if self.core is not None:
            text["core"] = self.core
        return text


@dataclass(frozen=True)
class CoreAuditFacts:
    """What a core needs, which is nothing of torch.

    `symbol_versions` are as in AuditFacts; `pybind11_ids` are the ids under which it shares types with its variants.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    symbol_versions: tuple[str, ...]
    pybind11_ids: tuple[str, ...]

    def text(self) -> dict[str, str]:
        """For the JSON document."""
        text = {"needs-torch": "no", "asks-for": "; ".join(self.symbol_versions)}
        if self.pybind11_ids:
            text["pybind11"] = " ".join(self.pybind11_ids)
        return text


@dataclass(frozen=True)
class CoreSmokeFacts:
    """What a core did where no torch is: `imported_without_torch` are its modules."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    imported_without_torch: tuple[str, ...]

    def text(self) -> dict[str, str]:
        """For the JSON document."""
        return {"torch": "none", "imports": ", ".join(self.imported_without_torch)}


Facts = RenderFacts | BuildFacts | RepairFacts | AuditFacts | SmokeFacts | CoreAuditFacts | CoreSmokeFacts
SomeFacts = TypeVar(
    "SomeFacts", RenderFacts, BuildFacts, RepairFacts, AuditFacts, SmokeFacts, CoreAuditFacts, CoreSmokeFacts
)
