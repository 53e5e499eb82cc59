"""Settings and variants: TOML -> frozen dataclasses, once.

Everything wrong in every file is found in one pass and raised as one ConfigError.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import InvalidName, canonicalize_name
from packaging.version import InvalidVersion, Version
from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, StrictFloat, StrictInt, TypeAdapter
from pydantic import ValidationError as PydanticError

from torch_build_farm import __version__
from torch_build_farm.core.errors import ConfigError, nearest
from torch_build_farm.core.versions import CPython, Minor

TABLE = "torch-build-farm"
# Variables of a build that a project may not set: without the farm's values the build would be another.
FARMS_OWN = {"MAKEFLAGS", "PATH", "SKBUILD_BUILD_DIR", "SOURCE_DATE_EPOCH", "TMPDIR", "TORCH_BUILD_FARM_ASKED",
             "TORCH_BUILD_FARM_SDK", "UV_CACHE_DIR", "UV_CONSTRAINT", "UV_NO_BUILD", "VIRTUAL_ENV"}  # fmt: skip


def _kebab(name: str) -> str:
    return name.replace("_", "-")


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f'must be a string in quotes, such as "2.8", not {value!r}')
    return value


def _version(value: object) -> str:
    try:
        Version(_text(value))
    except InvalidVersion as error:
        raise ValueError(str(error)) from None
    return _text(value)


def _requirement(value: str) -> str:
    try:
        Requirement(value)
    except InvalidRequirement as error:
        raise ValueError(str(error).splitlines()[0]) from None
    return value


def _installable(value: str) -> str:
    """What pip takes from a workflow: the checkout itself, or a requirement."""
    return value if value == "." else _requirement(value)


def _word(value: str) -> str:
    """A name that goes into a workflow as it is."""
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", value):
        raise ValueError(f"{value!r} may hold letters, digits, '.', '_' and '-' alone")
    return value


def _upload_url(value: str) -> str:
    if value not in ("pypi", "testpypi") and not re.fullmatch(r"https?://[\w.:/~%-]+", value):
        raise ValueError(f"{value!r} is neither pypi, nor testpypi, nor the URL that twine uploads to")
    return value


def _distribution(value: str) -> str:
    try:
        canonicalize_name(value, validate=True)
    except InvalidName as error:
        raise ValueError(str(error)) from None
    return value


def _import_name(value: str) -> str:
    if not all(part.isidentifier() for part in value.split(".")):
        raise ValueError(f"{value!r} is no import name such as package.module")
    return value


def _environment(value: Mapping[str, str]) -> Mapping[str, str]:
    if taken := sorted(set(value) & FARMS_OWN):
        raise ValueError(f"{', '.join(taken)}: the farm sets this itself")
    return value


_GUIDE = "docs/maintainers.md lists every key with its type"
_CONFIG = ConfigDict(extra="forbid", alias_generator=_kebab, arbitrary_types_allowed=True)
Number = StrictInt | StrictFloat
MinorField = Annotated[Minor, BeforeValidator(lambda value: Minor.parse(_text(value)))]
CPythonField = Annotated[CPython, BeforeValidator(lambda value: CPython.parse(_text(value)))]
ImportName = Annotated[str, AfterValidator(_import_name)]


@dataclass(frozen=True)
class Variant:
    """The facts of one torch minor, as variants/torchNN.toml states them."""

    __pydantic_config__: ClassVar[ConfigDict] = _CONFIG

    torch: MinorField
    release: Annotated[str, BeforeValidator(_version)]
    releases: Annotated[tuple[Annotated[str, BeforeValidator(_version)], ...], Field(min_length=1)]
    pin: str
    cuda: Annotated[str, BeforeValidator(_version)]
    cuda_runtime: str
    cuda_toolkit: tuple[str, ...]
    cpython: Annotated[tuple[CPythonField, ...], Field(min_length=1)]
    cxx_standard: Annotated[StrictInt, Field(ge=11)]
    image: str
    torch_gb: Annotated[Number, Field(gt=0)]
    cuda_runtime_gb: Annotated[Number, Field(ge=0)]
    gcc: Annotated[StrictInt, Field(ge=1)] = 1

    @property
    def tag(self) -> str:
        return self.torch.tag

    @property
    def cuda_major(self) -> str:
        """Major of torch.version.cuda, which a toolkit must share."""
        return self.cuda.split(".", maxsplit=1)[0]

    @property
    def newest(self) -> str:
        """The newest release of the minor that is known."""
        return self.releases[-1]


@dataclass(frozen=True)
class SystemPackages:
    """Packages that must be there before a build, by package manager."""

    __pydantic_config__: ClassVar[ConfigDict] = _CONFIG

    apt: tuple[str, ...] = ()
    dnf: tuple[str, ...] = ()


@dataclass(frozen=True)
class Ci:
    """What rendered workflows do where projects differ."""

    __pydantic_config__: ClassVar[ConfigDict] = _CONFIG

    farm: Annotated[str, AfterValidator(_installable)] = f"torch-build-farm=={__version__}"
    runner: Annotated[str, AfterValidator(_word)] = "ubuntu-latest"
    engine: Literal["docker", "local"] = "docker"
    python: tuple[CPythonField, ...] = ()
    index: Annotated[str, AfterValidator(_upload_url)] = "pypi"
    environment: Annotated[str, AfterValidator(_word)] = "pypi"
    credentials: Literal["trusted-publisher", "token"] = "trusted-publisher"


@dataclass(frozen=True)
class Settings:
    """[tool.torch-build-farm] of a project's pyproject.toml. Paths are relative to that file."""

    __pydantic_config__: ClassVar[ConfigDict] = _CONFIG

    name: Annotated[str, AfterValidator(_distribution)]
    packages: Annotated[tuple[ImportName, ...], Field(min_length=1)]
    auto_name: Annotated[str, AfterValidator(_distribution)] | None = None
    select_name: Annotated[str, AfterValidator(_distribution)] | None = None
    source: str = "."
    git: str = ""
    revision: str = ""
    sdist: str = ""
    sdist_sha256: str = ""
    version: Annotated[str, BeforeValidator(_version)] = ""
    imports: tuple[ImportName, ...] = ()
    smoke_script: str | None = None
    torch: tuple[MinorField, ...] = ()
    torch_flavours: Literal["cuda", "any"] = "cuda"
    torch_build: Literal["auto", "sdk", "full"] = "auto"
    network: bool = False
    environment: Annotated[Mapping[str, str], AfterValidator(_environment)] = field(default_factory=dict)
    cmake_defines: Mapping[str, str] = field(default_factory=dict)
    build_constraints: tuple[Annotated[str, AfterValidator(_requirement)], ...] = ()
    before_build: tuple[str, ...] = ()
    system_packages: SystemPackages = SystemPackages()
    cuda_arch_list: tuple[str, ...] = ()
    grafted_libraries: tuple[str, ...] = ()
    size_limit_mb: Annotated[Number, Field(gt=0)] = 100
    memory_per_compile_gb: Annotated[Number, Field(gt=0)] | None = None
    exclude: tuple[str, ...] = ()
    ci: Ci = Ci()


@dataclass(frozen=True)
class Project:
    """A project the farm serves: where it lies, its settings, the variants and templates that hold for it."""

    root: Path
    settings: Settings
    variants: Mapping[Minor, Variant]
    template_folders: tuple[Path, ...]

    @property
    def imports(self) -> tuple[str, ...]:
        return self.settings.imports or self.settings.packages

    @property
    def smoke_script(self) -> Path | None:
        return self.root / self.settings.smoke_script if self.settings.smoke_script else None

    @property
    def auto_name(self) -> str:
        """Name of the middle wheel behind the one name."""
        return self.settings.auto_name or f"{self.settings.name}-auto"

    @property
    def select_name(self) -> str:
        """Name of the rungs behind the one name."""
        return self.settings.select_name or f"{self.settings.name}-select"

    def distribution(self, variant: Variant) -> str:
        """Name of the variant's distribution, such as pymomentum-gpu-torch28."""
        return f"{self.settings.name}-{variant.tag}"


Shape = TypeVar("Shape", Settings, Variant)
_TABLES: Mapping[int | str, type[Ci] | type[SystemPackages]] = {"ci": Ci, "system-packages": SystemPackages}


def _key(location: tuple[int | str, ...]) -> str:
    """A TOML key as people write it: ("cpython", 0) -> "cpython[0]"."""
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _read(shape: type[Shape], table: Mapping[str, Any], where: str, problems: list[str]) -> Shape | None:
    try:
        return TypeAdapter(shape).validate_python(table)
    except PydanticError as error:
        for problem in error.errors():
            location = tuple(part for part in problem["loc"] if part not in ("int", "float"))
            if problem["type"] == "unexpected_keyword_argument":
                known = [_kebab(one.name) for one in fields(shape if len(location) == 1 else _TABLES[location[0]])]
                message = f"unknown key; {nearest(str(location[-1]), known)}"
            elif problem["type"] in ("missing", "missing_argument"):
                message = "missing key"
            else:
                message = problem["msg"].removeprefix("Value error, ")
            line = f"{where}: {_key(location)}: {message}"
            if line not in problems:
                problems.append(line)
        return None


def _load(path: Path, problems: list[str]) -> dict[str, Any] | None:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        problems.append(f"{path}: not valid TOML: {error}")
    except OSError as error:
        problems.append(f"{path}: cannot be read: {error.strerror}")
    return None


def _source_contradictions(settings: Settings, table: Mapping[str, Any], where: str) -> list[str]:
    """What is wrong with where the source is said to come from."""
    found = []
    origins = [key for key in ("source", "git", "sdist") if key in table]
    if len(origins) > 1:
        found.append(f"{origins[1]}: contradicts {origins[0]}; a project has one source")
    for key, other in (("revision", "git"), ("git", "revision"), ("sdist-sha256", "sdist")):
        if key in table and other not in table:
            found.append(f"{key}: needs {other} beside it")
    if settings.sdist:
        try:
            specifiers = list(Requirement(settings.sdist).specifier)
        except InvalidRequirement as error:
            found.append(f"sdist: {error}")
        else:
            if [one.operator for one in specifiers] != ["=="] or specifiers[0].version.endswith("*"):
                found.append(f'sdist: {settings.sdist!r} must name one version, as in "torch-scatter==2.1.2"')
            elif not re.fullmatch(r"[0-9a-f]{64}", settings.sdist_sha256):
                found.append(
                    f"sdist-sha256: must be the SHA-256 of the file, 64 hexadecimal digits; `init {settings.sdist}` "
                    "writes it as the index has it"
                )
    return [f"{where}: {line}" for line in found]


def _release_contradictions(variant: Variant) -> list[str]:
    found = []
    for release in variant.releases:
        if Version(release).release[:2] != (variant.torch.major, variant.torch.minor):
            found.append(f"releases: {release} is no release of torch {variant.torch}")
    if variant.release not in variant.releases:
        found.append(f"release: {variant.release} is not among releases")
    if list(variant.releases) != sorted(variant.releases, key=Version):
        found.append("releases: must be in order of version")
    return found


def _cuda_contradictions(variant: Variant) -> list[str]:
    found = []
    try:
        pinned = [specifier.version for specifier in Requirement(variant.cuda_runtime).specifier]
    except InvalidRequirement as error:
        found.append(f"cuda-runtime: {error}")
    else:
        if not any(re.match(rf"{re.escape(variant.cuda)}(\.|$)", version) for version in pinned):
            found.append(f"cuda-runtime: {variant.cuda_runtime} contradicts cuda = {variant.cuda!r}")
    for number, text in enumerate(variant.cuda_toolkit):
        try:
            Requirement(text)
        except InvalidRequirement as error:
            found.append(f"cuda-toolkit[{number}]: {error}")
    return found


def _contradictions(variant: Variant, path: Path) -> list[str]:
    """What a variants file says that cannot all be true."""
    found = []
    minor = str(variant.torch)
    if path.stem != variant.tag:
        found.append(f"torch: {minor} belongs in {variant.tag}.toml, not in {path.name}")
    try:
        pin = SpecifierSet(variant.pin)
    except InvalidSpecifier as error:
        found.append(f"pin: {error}")
    else:
        if pin != SpecifierSet(f"=={minor}.*"):
            found.append(f"pin: {variant.pin!r} contradicts torch = {minor!r}; it must be '=={minor}.*'")
    found += [*_release_contradictions(variant), *_cuda_contradictions(variant)]
    if len(set(variant.cpython)) != len(variant.cpython):
        found.append("cpython: a tag is named twice")
    return [f"{path}: {line}" for line in found]


def _variants(folders: tuple[Path, ...], problems: list[str]) -> dict[Minor, Variant]:
    """Variants by minor, in order of version; a file in an earlier folder wins over its namesake in a later one."""
    files: dict[str, Path] = {}
    for folder in folders:
        for path in sorted(folder.glob("*.toml")):
            files.setdefault(path.name, path)
    variants = {}
    for path in files.values():
        table = _load(path, problems)
        variant = _read(Variant, table, str(path), problems) if table is not None else None
        if variant:
            problems += _contradictions(variant, path)
            variants[variant.torch] = variant
    return dict(sorted(variants.items()))


def variants_of(folders: tuple[Path, ...]) -> dict[Minor, Variant]:
    """The variants that `folders` describe, in order of version. Raises ConfigError with every problem found."""
    problems: list[str] = []
    found = _variants(folders, problems)
    if problems:
        raise ConfigError("\n".join(problems), next_step=_GUIDE)
    return found


def load(root: Path, builtin: Path) -> Project:
    """The project in folder `root`; variants and templates come from there and, file by file, from `builtin`.

    Raises ConfigError with every problem of every file.
    """
    path = root / "pyproject.toml"
    if not path.is_file():
        raise ConfigError(
            f"{root} holds no pyproject.toml", next_step=f"name a folder whose pyproject.toml has [tool.{TABLE}]"
        )
    problems: list[str] = []
    document = _load(path, problems)
    tool = (document or {}).get("tool", {})
    if document is not None and TABLE not in tool:
        close = nearest(TABLE, tool) if tool else "it has no [tool.*] table at all"
        problems.append(f"{path}: no table [tool.{TABLE}]; {close}")
    where = f"{path}: [tool.{TABLE}]"
    settings = _read(Settings, tool[TABLE], where, problems) if TABLE in tool else None
    if settings:
        problems += _source_contradictions(settings, tool[TABLE], where)
    variants = _variants((root / "variants", builtin / "variants"), problems)
    if problems or settings is None:
        raise ConfigError("\n".join(problems), next_step=_GUIDE)
    templates = tuple(folder for folder in (root / "templates", builtin / "templates") if folder.is_dir())
    return Project(root, settings, variants, templates)
