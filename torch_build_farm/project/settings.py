"""[tool.torch-build-farm] of a project's pyproject.toml -> Settings, with every problem of every file in one error.

The docstring below a field is its documentation: docs/reference/settings.md, the JSON Schema for editors and the
comments that `init` writes are made of it (project/reference.py).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from pydantic import AfterValidator, ConfigDict, Field

from torch_build_farm import __version__
from torch_build_farm.core.errors import ConfigError, nearest
from torch_build_farm.core.machine import MACHINES, X86_64, Machine
from torch_build_farm.core.versions import CPython, Minor
from torch_build_farm.project.changes import Changes
from torch_build_farm.project.core_table import Core
from torch_build_farm.project.cuda_architectures import with_those_of_torch
from torch_build_farm.project.overrides import Override
from torch_build_farm.project.tables import (
    REFERENCE,
    TABLE_CONFIG,
    AbsoluteFolder,
    BuildEnvironment,
    CheckoutOrRequirement,
    CMakeDefines,
    ConfigSettings,
    CPythonName,
    CudaArchitectures,
    DistributionName,
    FolderWithin,
    ImportName,
    MinorName,
    PlainWord,
    PlatformName,
    PositiveNumber,
    RequirementText,
    UploadUrl,
    VersionText,
    load_toml,
    read_table,
)
from torch_build_farm.project.variant import (
    CoreVariant,
    Described,
    StableVariant,
    Variant,
    collect_variants,
    file_name,
)

TABLE = "torch-build-farm"
SYSTEM = "system"  # who brings a library of `external-libraries` that no distribution has: the user's system


def _requires(value: tuple[str, ...]) -> tuple[str, ...]:
    for text in value:
        requirement = Requirement(text)
        if canonicalize_name(requirement.name) == "torch":
            raise ValueError(f"{text!r}: the farm pins torch itself")
        if requirement.url:
            raise ValueError(f"{text!r} names a URL, which package indexes refuse in what a wheel requires")
    return value


def _external_libraries(value: Mapping[str, str]) -> Mapping[str, str]:
    for pattern in value:
        if "/" in pattern:
            raise ValueError(f'{pattern!r} is a path; name the library alone, such as "libfoo.so*"')
        if ".so" not in pattern:
            raise ValueError(f"{pattern!r} matches no library that is needed by its name, such as libfoo.so.1")
    return value


@dataclass(frozen=True)
class SystemPackages:
    """Packages of the operating system that a build needs, by package manager.

    On this machine the farm checks for them before it builds anything; in containers it installs them into the image.
    """

    __pydantic_config__: ClassVar[ConfigDict] = TABLE_CONFIG

    apt: tuple[str, ...] = ()
    """Packages where apt manages them (Debian, Ubuntu), such as `["liblzma-dev"]`."""

    dnf: tuple[str, ...] = ()
    """Packages where dnf manages them (AlmaLinux, Fedora, the manylinux images), such as `["xz-devel"]`."""


@dataclass(frozen=True)
class Ci:
    """What the workflows that `ci` writes do where projects differ."""

    __pydantic_config__: ClassVar[ConfigDict] = TABLE_CONFIG

    farm: CheckoutOrRequirement = f"torch-build-farm=={__version__}"
    """What each job installs with pip as the farm: a requirement, or `"."` where the checkout is the farm itself. Not
    set: the version that wrote the workflow."""

    runner: PlainWord = "ubuntu-latest"
    """The label of the machines; they must be x86-64 Linux."""

    arm64_runner: PlainWord = "ubuntu-24.04-arm"
    """The label of the machines that build, test and check wheels for arm64, where `platforms` names it; they must be
    arm64 Linux."""

    engine: Literal["docker", "local"] = "docker"
    """Where wheels are built and tested. `"docker"`: in the variants' manylinux images, as for a release. `"local"`:
    with the runner's own compiler."""

    python: tuple[CPythonName, ...] = ()
    """The CPythons to build for, such as `["3.11", "3.12"]`. Not set: one, 3.12 where torch has it."""

    index: UploadUrl = "pypi"
    """Where releases are published: `"pypi"`, `"testpypi"`, or the URL that twine uploads to."""

    environment: PlainWord = "pypi"
    """The environment of the publishing job; the workflow's input offers it under this name."""

    credentials: Literal["trusted-publisher", "token"] = "trusted-publisher"
    """How the publishing job identifies itself. `"token"`: by the environment secrets `TWINE_PASSWORD` and, if it is
    not `__token__`, `TWINE_USERNAME`. Indexes other than `"pypi"` and `"testpypi"` need a token."""


@dataclass(frozen=True)
class Settings:
    """`[tool.torch-build-farm]` of a project's `pyproject.toml`. Paths are relative to that file."""

    __pydantic_config__: ClassVar[ConfigDict] = TABLE_CONFIG

    name: DistributionName
    """Base name of the distributions; a variant is called `NAME-torchNN`."""

    packages: Annotated[tuple[ImportName, ...], Field(min_length=1)]
    """The packages that a wheel may contain at top level. A dotted name such as `"acme.geometry"` is a package in a
    namespace, or in a package of another distribution."""

    auto_name: DistributionName | None = None
    """The first of the two distributions behind the one name. Not set: `NAME-auto`."""

    select_name: DistributionName | None = None
    """The second of the two distributions behind the one name. Not set: `NAME-select`."""

    source: str = "."
    """Folder of the project that is built, with a `pyproject.toml` or `setup.py` of its own at its top or in its
    `subdirectory`."""

    git: str = ""
    """In place of `source`: a git repository, as a URL (https or ssh) or path. Needs `revision` beside it."""

    revision: str = ""
    """The tag, branch or commit of `git` that is built. A commit of 40 hexadecimal digits is looked up once and never
    again."""

    sdist: str = ""
    """In place of `source`: an sdist on the package index, such as `"torch-scatter==2.1.2"`. Needs `sdist-sha256`."""

    sdist_sha256: str = ""
    """SHA-256 of the file that `sdist` names, 64 hexadecimal digits; `init` writes it."""

    subdirectory: FolderWithin = ""
    """Folder within the source that holds the Python project, such as `"bindings/torch"`. The whole source is there
    while it is built, so the project may compile files above that folder. Not set: the top of the source."""

    patches: tuple[str, ...] = ()
    """Unified diffs that are applied to the source, in this order, before anything of it is read, such as
    `["patches/fix.diff"]`. Paths in a diff begin with `a/` and `b/` and are relative to the top of the source."""

    pyproject: FolderWithin = ""
    """A file of the source that takes the place of its `pyproject.toml`, such as `"pyproject-gpu.toml"`. It lies in the
    folder of the Python project."""

    version: VersionText = ""
    """The version, for a source that does not state its own without being run."""

    plain_files: tuple[str, ...] = ()
    """Files outside the packages that are the same for every variant and go into the plain wheel, as patterns. A path
    begins with the kind of folder that the file is installed into: `"scripts/tool"`, `"data/share/*"`, `"headers/*"`;
    `"purelib/..."` is for site-packages. `*` matches `/` too."""

    requires: Annotated[tuple[RequirementText, ...], AfterValidator(_requires)] = ()
    """Requirements of every variant in addition to what the source declares, such as `["numpy>=1.26"]`, for somebody
    else's source that forgets them. One with a marker such as `extra == "plot"` belongs to that extra."""

    imports: tuple[ImportName, ...] = ()
    """Modules that must import, each in a fresh interpreter that has not imported torch. Not set: `packages`."""

    import_torch_first: bool = False
    """Whether the dispatcher imports torch before the packages, for one that cannot do so in its own `__init__.py`.
    Before a single compiled module (`NAME.cpython-312-x86_64-linux-gnu.so`) it always does."""

    smoke_script: str | None = None
    """Script that the smoke test runs with the installed wheel. An exception fails the test; the last line of the
    output goes into the report."""

    test_requires: tuple[RequirementText, ...] = ()
    """Requirements of the smoke script and of `test-command`, such as `["pytest", "numpy"]`. Imports are tested before,
    in an environment without them."""

    test_extras: tuple[DistributionName, ...] = ()
    """Extras of the wheel that the smoke script and `test-command` need, such as `["test"]`. Imports are tested before,
    in an environment without them."""

    test_command: tuple[str, ...] = ()
    """Commands of the smoke test, such as `["pytest {project}/tests"]`. `/bin/sh` runs them beside the installed wheel,
    in an empty folder. `{project}` stands for a copy of the source tree, `{package}` for `subdirectory` in it."""

    torch: tuple[MinorName, ...] = ()
    """The torch minors that are built where `--torch` is not given, such as `["2.8", "2.9"]`. `"2.9:cu126"` is a
    flavour of one, which has a file of its own in `variants/`."""

    platforms: tuple[PlatformName, ...] = ()
    """The machines that wheels are built for where `--platform` is not given: `["x86_64", "aarch64"]`, of which the
    second is arm64. Not set: machines like the one that the farm runs on."""

    stable_abi: MinorName | None = None
    """The oldest torch minor that one wheel serves together with all later ones, such as `"2.10"`: `NAME-torch-stable`,
    which uses nothing of torch but its stable ABI. The minors below have a variant each. Not set: all of them have."""

    torch_flavours: Literal["cuda", "any"] = "cuda"
    """The kinds of torch that a wheel works with. `"any"`: it must load beside a CPU torch too, so it may not need
    libtorch_cuda or libc10_cuda; without `cuda-arch-list`, `find_package(Torch)` then offers neither."""

    torch_build: Literal["auto", "sdk", "full"] = "auto"
    """How much of torch a build gets. `"sdk"`: the SDK of 12 MB (headers, CMake files, link stubs). `"full"`: all of
    torch, 4 GB with CUDA's libraries. `"auto"`: the SDK, unless the build turns out to run torch."""

    network: bool = False
    """Whether a build may use the network. Build requirements are fetched before it in any case. Where a machine cannot
    start a local build without one, the run says so, and refuses a wheel whose libraries nothing compiled."""

    environment: BuildEnvironment = field(default_factory=dict)
    """Environment variables of the build. Flags (`CFLAGS`, `CXXFLAGS`, `LDFLAGS`, `CMAKE_ARGS`) and search paths
    (`CMAKE_PREFIX_PATH` and the like) are joined with the farm's; `PATH` and a few others only the farm sets."""

    cmake_defines: CMakeDefines = field(default_factory=dict)
    """CMake cache entries (`-DNAME=value`), passed in `CMAKE_ARGS`."""

    build_requires: tuple[RequirementText, ...] = ()
    """What the build requires beside what the source declares, such as `["wheel", "numpy"]`: distributions that
    setup.py imports and `[build-system]` does not name. They are installed before the back end runs."""

    config_settings: ConfigSettings = field(default_factory=dict)
    """Settings for the back end, passed to each of its hooks (PEP 517), such as `{ "--build-option" = "--cpp_ext" }` of
    setuptools or `{ setup-args = ["-Dcuda=disabled"] }` of meson-python."""

    build_constraints: tuple[RequirementText, ...] = ()
    """Versions that build requirements are held to, such as `["setuptools==80.9.0"]`. Without one a build requirement
    is as new as on the day of the build."""

    before_build: tuple[str, ...] = ()
    """Commands that `/bin/sh` runs at the top of the build's copy of the source, with the build's environment. In a
    container they run before torch and the build requirements are installed."""

    system_packages: SystemPackages = SystemPackages()
    """Packages of the operating system that a build needs, by package manager."""

    prepare: tuple[str, ...] = ()
    """Commands that install what builds need into the folder `$PREFIX`, once for all jobs: in a layer of the image, or
    on this machine in the store. `/bin/sh` runs them with the network. `prefixes` is for what is installed already."""

    prepare_files: tuple[str, ...] = ()
    """Files and folders beside the project file that `prepare` uses, such as `["scripts/dependencies.sh"]`. A change to
    one of them prepares anew."""

    prefixes: tuple[AbsoluteFolder, ...] = ()
    """Folders that libraries were installed into, such as `["/opt/fmt"]`: CMake, pkg-config, compilers, the loader and
    auditwheel look there too."""

    cuda_arch_list: CudaArchitectures = ()
    """CUDA architectures to compile for, as in torch's `TORCH_CUDA_ARCH_LIST`: `["8.0", "9.0+PTX"]`, or
    `["Ampere", "Hopper"]`; `"torch"` for those that each torch itself is compiled for. `plan` refuses what the toolkit
    of a torch does not compile for. Set it where the project has CUDA sources: it then needs a toolkit of torch's CUDA
    major. `[]`: the project is C++ only."""

    compress_device_code: bool = False
    """Whether nvcc compresses the code for GPUs (`-Xfatbin -compress-all`), as PyTorch does for its own wheels. It is
    unpacked when it is loaded. That makes installed libraries smaller, and the wheels themselves little."""

    grafted_libraries: tuple[str, ...] = ()
    """Libraries of the build machine that auditwheel may copy into the wheel, as patterns such as `"libabsl_*.so*"`;
    `"lib*"` stands for all."""

    external_libraries: Annotated[Mapping[str, DistributionName], AfterValidator(_external_libraries)] = field(
        default_factory=dict
    )
    """Libraries that the wheel needs and does not carry, as patterns, each with the distribution that brings it and
    that the wheel requires: `{"libmetatensor.so*" = "metatensor-core"}`. `"system"` in place of a distribution: the
    user's system has it."""

    cpu_baseline: Literal["x86-64", "x86-64-v2", "x86-64-v3", "x86-64-v4"] = "x86-64"
    """The oldest x86-64 CPUs that wheels are for, as a level of the x86-64 psABI; `"x86-64-v3"` has AVX2. A wheel whose
    code needs more without asking the CPU is refused: it would end the user's process with SIGILL."""

    size_limit_mb: PositiveNumber = 100
    """The largest wheel allowed, in MB (10^6 bytes)."""

    memory_per_compile_gb: PositiveNumber | None = None
    """The most memory that one compiler needs, in GB (10^9 bytes). It limits how many compilers run at once and what a
    container may take. Not set: a quarter more than the largest process of earlier builds in the work folder, else
    2."""

    exclude: tuple[str, ...] = ()
    """Files that are not part of the source, as patterns in gitignore's syntax. `!pattern` includes them again, also
    what .gitignore names, such as `["!/generated/"]`."""

    overrides: tuple[Override, ...] = ()
    """What differs between jobs, by torch, CPython or CUDA: an array of tables,
    `[[tool.torch-build-farm.overrides]]`."""

    core: Core | None = None
    """A distribution without torch that owns the package which the variants add to, built once per CPython before them;
    a table of its own. Not set: there is none."""

    ci: Ci = Ci()
    """Keys for the workflows that `ci` writes; a table of its own."""

    def for_job(self, variant: Variant, python: CPython) -> Settings:
        """The settings of the variant's job for that CPython: each override that selects it applied, in their order.

        Equal for two jobs that the same overrides select: the result has none left.
        """
        resolved = replace(self, overrides=())
        for override in self.overrides:
            if override.selects(variant, python):
                resolved = replace(resolved, **override.changes(resolved))
        if self.core and isinstance(variant, CoreVariant):
            resolved = replace(resolved, **self.core.changes(resolved))
        architectures = with_those_of_torch(resolved.cuda_arch_list, variant.cuda_architectures)
        return replace(resolved, cuda_arch_list=architectures)


# The list of what was published, beside pyproject.toml (publish/published_list.py). No part of the source tree.
PUBLISHED_LIST = "published.json"


@dataclass(frozen=True)
class Project:
    """A project that the farm serves: its folder and settings, and the torch minors and templates that apply to it.

    `torch_minors` are those of the default index, `flavours` those that other indexes have; both are for x86-64. `on`
    gives the project with those for another platform, by what `by_platform` has of them.
    """

    root: Path
    settings: Settings
    torch_minors: Mapping[Minor, Variant]
    template_folders: tuple[Path, ...]
    flavours: Mapping[Minor, Variant] = field(default_factory=dict)
    by_platform: Mapping[Machine, Mapping[Minor, Variant]] = field(default_factory=dict)

    def on(self, platform: Machine) -> Project:
        """The project with the torch minors of a platform in place of those of x86-64."""
        if platform == X86_64:
            return self
        torch_minors, flavours = _without_and_with_flavour(self.by_platform.get(platform, {}))
        return replace(self, torch_minors=torch_minors, flavours=flavours)

    @cached_property
    def variants(self) -> Mapping[Minor, Variant]:
        """What wheels are built for, by its oldest torch minor: each minor; from `stable-abi` on all of them as one."""
        floor = self.settings.stable_abi
        if floor is None:
            return self.torch_minors
        variants = {minor: facts for minor, facts in self.torch_minors.items() if minor < floor}
        served = [facts for minor, facts in self.torch_minors.items() if minor >= floor]
        if served:  # another platform may have none of them
            variants[floor] = StableVariant.of(served)
        return variants

    @cached_property
    def described(self) -> Mapping[Minor, Variant]:
        """What the variants files describe, in order: minors, and the flavours behind theirs."""
        return dict(sorted({**self.torch_minors, **self.flavours}.items()))

    @property
    def described_platforms(self) -> tuple[Machine, ...]:
        """The platforms whose variants files are kept up to date: those of the settings, or else x86-64 alone."""
        return tuple(dict.fromkeys(self.settings.platforms)) or (X86_64,)

    @property
    def variants_files(self) -> tuple[str, ...]:
        """The names of the variants files of every platform."""
        names = []
        for platform, described in self.by_platform.items():
            names += [file_name(minor, platform) for minor in described]
        return tuple(names)

    @cached_property
    def all_variants(self) -> Mapping[Minor, Variant]:
        """The variants, and the flavours behind their minors."""
        return dict(sorted({**self.variants, **self.flavours}.items()))

    @cached_property
    def by_minor(self) -> Mapping[Minor, Mapping[Machine, Variant]]:
        """The variants of every platform, by minor and platform; those of the stable ABI stand at its oldest minor."""
        by_minor: dict[Minor, dict[Machine, Variant]] = {}
        for platform in MACHINES:
            for minor, variant in self.on(platform).all_variants.items():
                by_minor.setdefault(minor, {})[platform] = variant
        return dict(sorted(by_minor.items()))

    def variants_of(self, platforms: Collection[Machine]) -> list[Variant]:
        """The variants of some platforms, by minor, and of each minor in order of the platforms."""
        return [
            variant
            for by_platform in self.by_minor.values()
            for platform, variant in by_platform.items()
            if platform in platforms
        ]

    @cached_property
    def core(self) -> CoreVariant | None:
        """What the jobs of the core are planned for; None for a project without a core, or without a torch minor."""
        if self.settings.core is None or not self.torch_minors:
            return None
        # Not those of one run: the core is the same, and is kept, whichever minors are asked for.
        minors = sorted(minor.of_default_index for minor in self.settings.torch)
        built = [self.torch_minors[minor] for minor in minors if minor in self.torch_minors]
        oldest = built[0] if built else next(iter(self.torch_minors.values()))
        pythons = {python for variant in self.all_variants.values() for python in variant.cpython}
        return CoreVariant.of(oldest, sorted(pythons))

    def requiring_core(self, version: str) -> Project:
        """The project whose variants require the core at exactly that version."""
        if self.settings.core is None:
            return self
        requires = (*self.settings.requires, f"{self.settings.core.name}=={version}")
        return replace(self, settings=replace(self.settings, requires=requires))

    @property
    def imports(self) -> tuple[str, ...]:
        """The modules that must import: `imports` of the settings, else `packages`."""
        return self.settings.imports or self.settings.packages

    @property
    def smoke_script(self) -> Path | None:
        """The absolute path of the smoke script; None for a project without one."""
        return self.root / self.settings.smoke_script if self.settings.smoke_script else None

    @property
    def changes(self) -> Changes:
        """What is changed of the source before anything of it is read."""
        return self.changes_by(self.settings)

    def changes_by(self, settings: Settings) -> Changes:
        """What `settings`, which may be those of one job, change of the source."""
        return Changes(tuple(self.root / patch for patch in settings.patches), settings.pyproject)

    @property
    def auto_name(self) -> str:
        """Name of the middle wheel behind the one name."""
        return self.settings.auto_name or f"{self.settings.name}-auto"

    @property
    def select_name(self) -> str:
        """Name of the rungs behind the one name."""
        return self.settings.select_name or f"{self.settings.name}-select"

    @property
    def family_names(self) -> tuple[str, ...]:
        """The names of all its distributions, except the core's."""
        variants = [self.distribution(next(iter(facts.values()))) for facts in self.by_minor.values()]
        return (*variants, self.select_name, self.auto_name, self.settings.name)

    def image(self, variant: Variant) -> str:
        """The image that the variant's wheels are built in, where containers are used.

        That with nvcc if one of its jobs compiles CUDA sources and no wheels bring the toolkit.
        """
        if variant.cuda_image and not variant.cuda_toolkit and self._compiles_cuda(variant):
            return variant.cuda_image
        return variant.image

    def _compiles_cuda(self, variant: Variant) -> bool:
        return any(self.settings.for_job(variant, python).cuda_arch_list for python in variant.cpython)

    def distribution(self, variant: Variant | Minor) -> str:
        """Name of the variant's distribution, such as pymomentum-gpu-torch28, or of the core's."""
        if self.settings.core and isinstance(variant, CoreVariant):
            return self.settings.core.name
        return f"{self.settings.name}-{variant.tag}"


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
    settings = _read_settings(path, problems)
    # Projects could override this template once. One that still does must learn that its override has no effect.
    template = root / "templates" / "pyproject.toml.j2"
    if template.is_file():
        problems.append(
            f"{template}: the farm no longer takes a template for pyproject.toml: put what it adds into {path}, and "
            "remove it"
        )
    described = collect_variants((root / "variants", builtin / "variants"), problems)
    torch_minors, flavours = _without_and_with_flavour(described[X86_64])
    if settings:
        for number, override in enumerate(settings.overrides):
            problems += [f"{path}: [tool.{TABLE}]: overrides[{number}]{it}" for it in override.problems(described)]
    if settings and not problems:
        of_table = _stable_problems(settings, torch_minors, described)
        problems += [f"{path}: [tool.{TABLE}]: {problem}" for problem in of_table]
    if settings and settings.core and not problems:
        names = Project(root, settings, torch_minors, (), flavours, described).family_names
        of_core = settings.core.problems(names, settings.packages)
        problems += [f"{path}: [tool.{TABLE}]: {problem}" for problem in of_core]
    if problems or settings is None:
        raise ConfigError("\n".join(problems), next_step=REFERENCE)
    templates = tuple(folder for folder in (root / "templates", builtin / "templates") if folder.is_dir())
    return Project(root, settings, torch_minors, templates, flavours, described)


def _without_and_with_flavour(
    described: Mapping[Minor, Variant],
) -> tuple[dict[Minor, Variant], dict[Minor, Variant]]:
    """The minors of the default index, and those that other indexes have."""
    torch_minors = {minor: variant for minor, variant in described.items() if not minor.flavour}
    flavours = {minor: variant for minor, variant in described.items() if minor.flavour}
    return torch_minors, flavours


def _stable_problems(settings: Settings, torch_minors: Mapping[Minor, Variant], described: Described) -> list[str]:
    """What is wrong with `stable-abi`: its wheel is built against that minor, and tested with the newest as well."""
    floor = settings.stable_abi
    if floor is None:
        return []
    for platform, of_platform in described.items():
        for minor in of_platform:
            if minor.flavour and minor >= floor:
                file = f"variants/{file_name(minor, platform)}"
                return [f"stable-abi: its wheel serves torch {minor} too; remove {file}"]
    if floor not in torch_minors:
        known = ", ".join(map(str, torch_minors))
        return [f"stable-abi: torch {floor} has no file variants/{floor.tag}.toml; known minors: {known}"]
    variant = StableVariant.of([facts for minor, facts in torch_minors.items() if minor >= floor])
    if not variant.cpython:
        newest = max(torch_minors)
        return [f"stable-abi: torch {floor} and torch {newest} have no CPython in common; raise it"]
    return []


def _read_settings(path: Path, problems: list[str]) -> Settings | None:
    """The farm's table in a pyproject.toml; None, and a line in `problems` for each problem, if it cannot be used."""
    document = load_toml(path, problems)
    if document is None:
        return None
    tool = document.get("tool", {})
    if TABLE not in tool:
        hint = nearest(TABLE, tool) if tool else "it has no [tool.*] table at all"
        problems.append(f"{path}: no table [tool.{TABLE}]; {hint}")
        return None
    where = f"{path}: [tool.{TABLE}]"
    settings = read_table(Settings, tool[TABLE], where, problems)
    if settings:
        # Contradictions between keys: pydantic looks at each key by itself.
        problems += [f"{where}: {problem}" for problem in _source_contradictions(settings, tool[TABLE])]
    return settings


def _source_contradictions(settings: Settings, table: Mapping[str, Any]) -> list[str]:
    """What is wrong with the keys that state where the source comes from."""
    # In the table and not in `settings`, where a key that is not set has its default.
    problems = []
    sources = [key for key in ("source", "git", "sdist") if key in table]
    if len(sources) > 1:
        problems.append(f"{sources[1]}: contradicts {sources[0]}; a project has one source")
    for key, needed in (("revision", "git"), ("git", "revision"), ("sdist-sha256", "sdist")):
        if key in table and needed not in table:
            problems.append(f"{key}: needs {needed} beside it")
    if settings.sdist:
        problems += _sdist_problems(settings)
    return problems


def _sdist_problems(settings: Settings) -> list[str]:
    """What is wrong with `sdist` and `sdist-sha256`: together they must name one file."""
    try:
        specifiers = list(Requirement(settings.sdist).specifier)
    except InvalidRequirement as error:
        return [f"sdist: {error}"]
    # What is pinned by one SHA-256 has one version.
    operators = [specifier.operator for specifier in specifiers]
    if operators != ["=="] or specifiers[0].version.endswith("*"):
        return [f'sdist: {settings.sdist!r} must name one version, as in "torch-scatter==2.1.2"']
    if not re.fullmatch(r"[0-9a-f]{64}", settings.sdist_sha256):
        return [
            f"sdist-sha256: must be the SHA-256 of the file, 64 hexadecimal digits; `init {settings.sdist}` "
            "writes the one on the package index"
        ]
    return []
