"""Variants x selection -> jobs. Pure: this module runs and writes nothing, and reads the farm's own data alone."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal, Self

from packaging.specifiers import SpecifierSet

from torch_build_farm.core import machine
from torch_build_farm.core.errors import ConfigError, NoPythonError, UnknownTorchError, UsageError, nearest
from torch_build_farm.core.machine import X86_64, Machine
from torch_build_farm.core.versions import CPython, Minor, parse_pythons
from torch_build_farm.project import cuda_architectures
from torch_build_farm.project.settings import Project
from torch_build_farm.project.variant import Variant, file_name, platform_option

Pythons = tuple[CPython, ...] | Literal["default", "all"]


@dataclass(frozen=True)
class Selection:
    """Which jobs to plan. `torch` are minors as typed, or "all"; `only` are patterns for job ids."""

    torch: tuple[str, ...]
    pythons: Pythons = "default"
    only: tuple[str, ...] = ()
    platforms: tuple[Machine, ...] = (X86_64,)

    @classmethod
    def parse(
        cls,
        project: Project,
        torch: Sequence[str],
        python: Sequence[str] = (),
        only: Sequence[str] = (),
        platform: Sequence[str] = (),
    ) -> Self:
        """The selection that words such as "2.8", "3.12" and "aarch64" ask for.

        Without `torch` and `platform`, the settings name minors and platforms; without both, the platform is that of
        this machine.

        Raises UsageError if nothing names a minor, and for a word of `python` or `platform` that is none.
        """
        minors = tuple(torch) or tuple(str(minor) for minor in project.settings.torch)
        if not minors:
            known = " ".join(str(minor) for minor in project.torch_minors)
            raise UsageError(
                "no torch minor is named",
                where="--torch",
                next_step=f"--torch {known}, some of these, or --torch all",
            )
        pythons: Pythons = "default"
        if "all" in python:
            pythons = "all"
        elif python:
            pythons = parse_pythons(python)
        platforms = parse_platforms(platform) or project.settings.platforms or (machine.running(),)
        return cls(minors, pythons, tuple(only), tuple(dict.fromkeys(platforms)))


def parse_platforms(words: Sequence[str]) -> tuple[Machine, ...]:
    """The platforms that --platform names, none where it is not given. Raises UsageError for a word that names none."""
    known = {each.name: each for each in machine.MACHINES}
    for word in words:
        if word not in (*known, "all"):
            raise UsageError(
                f"{word!r} is no platform; {nearest(word, known)}",
                where="--platform",
                next_step=f"--platform {' '.join(known)}, or one of them",
            )
    if "all" in words:
        return machine.MACHINES
    return tuple(known[word] for word in dict.fromkeys(words))


@dataclass(frozen=True)
class Job:
    """One variant, or the core, on one CPython: one wheel."""

    distribution: str
    version: str
    variant: Variant
    python: CPython

    @property
    def id(self) -> str:
        """Stable name, such as pymomentum-gpu-torch29-cp312, and pymomentum-gpu-torch29-cp312-aarch64 for arm64."""
        return job_id(self.distribution, self.python, self.platform)

    @property
    def platform(self) -> Machine:
        """The machines that the wheel is for."""
        return self.variant.platform


@dataclass(frozen=True)
class Plan:
    """The jobs in order of platform, torch and Python, the core's first, and notes on what was left out."""

    jobs: tuple[Job, ...]
    notes: tuple[str, ...]

    def matrix(self, project: Project, *, shared_wheels: bool = False) -> dict[str, list[dict[str, str]]]:
        """The jobs as a CI matrix (GitHub Actions' strategy.matrix): one combination a job.

        With `shared_wheels` one a variant, with all its CPythons: one machine builds the wheel and tests it on each.
        Such a combination is called after the job with the oldest CPython, which makes the wheel.
        """
        combinations = []
        for jobs in self._by_machine(shared_wheels=shared_wheels):
            job = jobs[0]
            combination = {
                "job": job.id,
                "distribution": job.distribution,
                "version": job.version,
                "variant": job.variant.tag,
                "torch": selecting_word(job.variant),
                "python": " ".join(str(each.python) for each in jobs),
                "releases": " ".join(release for minor in job.variant.minors for release in minor.public_releases),
                "cuda": job.variant.cuda,
                "image": project.image(job.variant),
                "platform": job.platform.name,
            }
            combinations.append(combination)
        return {"include": combinations}

    def _by_machine(self, *, shared_wheels: bool) -> list[list[Job]]:
        """The jobs of each machine, the one with the oldest CPython first."""
        if not shared_wheels:
            return [[job] for job in self.jobs]
        of_variants: dict[tuple[str, Machine], list[Job]] = {}
        for job in self.jobs:
            of_variants.setdefault((job.distribution, job.platform), []).append(job)
        return [sorted(jobs, key=lambda job: job.python) for jobs in of_variants.values()]


def jobs_of(project: Project) -> dict[str, tuple[Variant, CPython]]:
    """Every job that a project could have, by its id: each variant, and the core, on each CPython and platform."""
    jobs: dict[str, tuple[Variant, CPython]] = {}
    for platform in machine.MACHINES:
        on_platform = project.on(platform)
        for variant in (*([on_platform.core] if on_platform.core else []), *on_platform.all_variants.values()):
            for python in variant.cpython:
                jobs[job_id(project.distribution(variant), python, platform)] = (variant, python)
    return jobs


def job_id(distribution: str, python: CPython, platform: Machine = X86_64) -> str:
    """The stable name of a job, such as pymomentum-gpu-torch29-cp312, with its platform unless that is x86-64."""
    return f"{distribution}-{python.tag}{platform.suffix}"


def platform_of_job(job_id: str) -> Machine:
    """The platform of a job by its id."""
    for platform in machine.MACHINES:
        if job_id.endswith(f"-{platform.name}"):
            return platform
    return X86_64


def plan(
    project: Project,
    selection: Selection,
    *,
    version: str,
    requires_python: str,
    engine: Callable[[Variant], Mapping[CPython, str]],
    running: CPython,
    core_version: str = "",
) -> Plan:
    """The jobs for `selection`, given the engine's CPythons for a variant, with full versions, and the running one.

    The variants on a CPython bring the core's job there, whatever `selection` names; `core_version` is its version.

    Raises UnknownTorchError, NoPythonError where a variant is left without a CPython, and UsageError where `only`
    matches no job.
    """
    jobs: list[Job] = []
    lacking: list[NoPythonError] = []
    accepted = SpecifierSet(requires_python)

    # Every variant that was selected, with the CPythons that are left for it.
    variants, notes = _variants_of_platforms(project, selection)
    for variant in variants:
        interpreters = engine(variant)
        usable = _usable(variant, accepted, interpreters)
        picked = _pick(usable, selection.pythons, running)
        if not picked:
            lacking.append(_no_python(variant, requires_python, interpreters, selection.pythons))
            continue
        # If some of the requested CPythons are left, the missing ones are not an error: a note explains each of them.
        if not isinstance(selection.pythons, str):
            for python in sorted(set(selection.pythons) - set(picked)):
                why = _why_left_out(python, variant, interpreters)
                notes.append(f"torch {variant.on_platform}: no job for CPython {python}, {why}")
        for python in picked:
            jobs.append(Job(project.distribution(variant), version, variant, python))

    if not selection.only:
        if lacking:
            raise lacking[0]
        return Plan((*_core_jobs(project, jobs, core_version), *jobs), tuple(notes))

    # --only names jobs, so a variant without a CPython matters only where no other job matches.
    of_core = _core_jobs(project, jobs, core_version)
    matching = [job for job in (*of_core, *jobs) if _matches(job, selection.only)]
    if lacking and not matching:
        raise lacking[0]
    if not matching:
        ids = [job.id for job in (*of_core, *jobs)]
        raise UsageError(
            f"--only {' '.join(selection.only)} matches no job; {nearest(selection.only[0], ids)}",
            next_step="`plan` lists the jobs; patterns may hold * and ?",
        )
    # A variant's job takes the core's along.
    builds_for = {(job.platform, job.python) for job in matching}
    needed = [job for job in of_core if (job.platform, job.python) in builds_for]
    return Plan((*needed, *(job for job in matching if job.variant.needs_torch)), tuple(notes))


def _core_jobs(project: Project, jobs: Sequence[Job], version: str) -> list[Job]:
    """The core's job on each CPython that `jobs` are for, in order; none for a project without a core."""
    of_core = []
    for platform in dict.fromkeys(job.platform for job in jobs):
        core = project.on(platform).core
        if core:
            pythons = sorted({job.python for job in jobs if job.platform == platform})
            of_core += [Job(project.distribution(core), version, core, python) for python in pythons]
    return of_core


def selecting_word(variant: Variant) -> str:
    """The word for `--torch` that selects a variant: its minor; "all" for the core, which belongs to no minor.

    The core has CPythons that the oldest minor lacks.
    """
    return str(variant.torch) if variant.needs_torch else "all"


def check_architectures(project: Project, jobs: Sequence[Job]) -> None:
    """Raise ConfigError for jobs whose `cuda-arch-list` their torch does not read, or its toolkit does not compile for.

    torch's build and nvcc would say so too, after minutes.
    """
    _check_cuda(project, jobs)
    known = cuda_architectures.architectures()
    variants = {(job.platform, job.variant.torch): job.variant for job in jobs if _names_torchs_own(project, job)}
    unknown = list(variants.values())
    if unknown:
        files = ", ".join(f"variants/{file_name(variant.torch, variant.platform)}" for variant in unknown)
        commands = "; ".join(_command_to_add(variant) for variant in unknown)
        raise ConfigError(
            f'cuda-arch-list = "torch": what that torch is compiled for is in cuda-architectures, which {files} lacks',
            where=str(project.root / "variants"),
            next_step=f"{commands} writes the key; or name the architectures in cuda-arch-list",
        )

    minors: dict[tuple[str, str, str], dict[str, None]] = {}  # by who refuses, what it does, and what it takes
    hints: dict[str, str] = {}
    for job in jobs:
        variant = job.variant
        names = project.settings.for_job(variant, job.python).cuda_arch_list
        if not names:
            continue
        wrong = cuda_architectures.refused(names, variant.cuda, variant.torch)
        taken = ", ".join(known.taken(variant.cuda, variant.torch))
        for who, refuses, refused in (
            (f"CUDA {variant.cuda} of torch", "does not compile for", wrong.by_toolkit),
            ("torch", "does not read", wrong.by_torch),
        ):
            if refused:
                key = (who, f"{refuses} {', '.join(refused)}", taken)
                minors.setdefault(key, {})[str(variant.torch)] = None
                hints |= refused

    problems = []
    for (who, refuses, taken), of_minor in minors.items():
        problems.append(f"cuda-arch-list: {who} {', '.join(of_minor)} {refuses}; it takes {taken}")
    if problems:
        raise ConfigError(
            "\n".join(problems),
            where=str(project.root / "pyproject.toml"),
            next_step=" ".join(f"{name}: did you mean {other!r}?" for name, other in hints.items())
            + " An entry of [[tool.torch-build-farm.overrides]] gives a minor a list of its own, as in "
            'cuda = ">=13" with cuda-arch-list = ["7.5"]',
        )


def _check_cuda(project: Project, jobs: Sequence[Job]) -> None:
    """Raise ConfigError for jobs that are to compile CUDA sources for a torch without CUDA."""
    without_cuda: dict[Machine, dict[Minor, None]] = {}
    for job in jobs:
        if not job.variant.cuda and project.settings.for_job(job.variant, job.python).cuda_arch_list:
            without_cuda.setdefault(job.platform, {})[job.variant.torch] = None
    for platform, minors in without_cuda.items():
        listed = ", ".join(map(str, minors))
        raise ConfigError(
            f"cuda-arch-list: torch {listed} for {platform.words} is built without CUDA",
            where=str(project.root / "pyproject.toml"),
            next_step=f"leave torch {listed} out for {platform.name}; or give it a list of its own, in an entry of "
            f'[[tool.torch-build-farm.overrides]] with platform = "{platform.name}" and cuda-arch-list = []',
        )


def _command_to_add(variant: Variant) -> str:
    """The command that brings a variant's file up to date."""
    index = f" --index {variant.index}" if variant.torch.flavour else ""
    return f"`add {variant.torch}{platform_option(variant.platform)}{index}`"


def _names_torchs_own(project: Project, job: Job) -> bool:
    """Whether the job's list still has "torch" in it, for want of what the variant's torch is compiled for."""
    return cuda_architectures.OF_TORCH in project.settings.for_job(job.variant, job.python).cuda_arch_list


def _variants_of_platforms(project: Project, selection: Selection) -> tuple[list[Variant], list[str]]:
    """The variants that were selected for each platform, and a note on each minor that only some platforms have.

    Raises UnknownTorchError for a minor that none of them has.
    """
    known = {platform: set(_by_word(project.on(platform))) for platform in selection.platforms}
    known_anywhere = set().union(*known.values())
    variants: list[Variant] = []
    notes: list[str] = []
    for platform, known_here in known.items():
        known_elsewhere = known_anywhere - known_here
        words = [word for word in selection.torch if word not in known_elsewhere]
        for word in dict.fromkeys(selection.torch):
            if word in known_elsewhere:
                notes.append(f"torch {word}: no job for {platform.words}, for which no variants file describes it")
        if words:
            variants += choose_variants(project, words, platform)
    return variants, notes


def _by_word(project: Project) -> dict[str, Variant]:
    """The variant that each minor as typed selects: that of the stable ABI serves several."""
    return {str(minor.torch): variant for variant in project.all_variants.values() for minor in variant.minors}


def choose_variants(project: Project, minors: Sequence[str], platform: Machine = X86_64) -> tuple[Variant, ...]:
    """The variants of `minors` as typed ("all" stands for every one), in order of version, each once.

    Raises UnknownTorchError for a minor that no variants file describes for the platform.
    """
    project = project.on(platform)
    if "all" in minors and project.all_variants:
        return tuple(project.all_variants.values())
    known = _by_word(project)
    chosen = set()
    for text in minors:
        if text not in known:
            raise _unknown(project, text, platform)
        chosen.add(known[text])
    return tuple(sorted(chosen, key=lambda variant: variant.torch))


def _unknown(project: Project, text: str, platform: Machine) -> UnknownTorchError:
    """The error for a minor that has no variants file, with the nearest spelling that has one.

    `project` has the minors of that platform.
    """
    for_platform = "" if platform == X86_64 else f" for {platform.words}"
    what = f"torch {text} has no variant{for_platform}"
    for minor in project.described:
        # torch29, 29 and 2.9.1 for 2.9
        if text in (minor.tag, minor.tag.removeprefix("torch")) or text.startswith(f"{minor}."):
            what += f"; did you mean {minor}?"
            break
    if "," in text:
        next_step = "separate minors with spaces: --torch 2.8 2.9"
    else:
        next_step = f"use one of these, or describe it in {project.root / 'variants'}"
        if for_platform:
            next_step = f"use one of these, or `add {text} --platform {platform.name}` writes one"
    if re.fullmatch(r"\d+\.\d+:cu\d+", text):
        next_step = f"`add {text} --index URL` writes one, with the URL of the index that has this torch"
    known = ", ".join(map(str, project.described))
    return UnknownTorchError(what, where=f"known minors: {known or 'none'}", next_step=next_step)


def _usable(variant: Variant, requires_python: SpecifierSet, engine: Mapping[CPython, str]) -> list[CPython]:
    """The CPythons that torch, project and engine have in common, in order; `engine` has their full versions."""
    usable = []
    for python, version in engine.items():
        # The full version, since requires-python may name patch releases.
        if python in variant.cpython and requires_python.contains(version, prereleases=True):
            usable.append(python)
    return sorted(usable)


def _pick(usable: list[CPython], pythons: Pythons, running: CPython) -> list[CPython]:
    """The CPythons to build for, of those that are usable. Builds without the GIL are picked only by their names."""
    with_gil = [python for python in usable if not python.free_threaded]
    if pythons == "all":
        return with_gil
    if pythons == "default":
        return [running] if running in usable else with_gil[-1:]
    return [python for python in usable if python in pythons]


def _matches(job: Job, patterns: Sequence[str]) -> bool:
    """Whether a job's id matches one of the shell patterns; case counts, whatever the operating system."""
    return any(fnmatchcase(job.id, pattern) for pattern in patterns)


def _why_left_out(python: CPython, variant: Variant, engine: Mapping[CPython, str]) -> str:
    if python not in variant.cpython:
        lacking = [minor.torch for minor in variant.minors if python not in minor.cpython]
        return f"which torch {lacking[0]} has no wheel for"
    if python not in engine:
        return "which the engine does not provide"
    return "which the project's requires-python excludes"


def _no_python(
    variant: Variant, requires_python: str, engine: Mapping[CPython, str], pythons: Pythons
) -> NoPythonError:
    """The error for a variant without a CPython: what torch, the project and the engine each have."""

    def listed(interpreters: Sequence[CPython]) -> str:
        return ", ".join(map(str, sorted(interpreters))) or "none"

    requested = pythons if isinstance(pythons, str) else listed(pythons)
    with_gil = [python for python in variant.cpython if not python.free_threaded]
    to_install = with_gil[-1] if with_gil else "3.12"
    next_step = (
        "choose another with --python, or install one with its headers, such as `uv python install "
        f"{to_install}` (in Docker: name an image that has it with --base-image)"
    )
    if variant.platform != machine.running():
        next_step = (
            f"choose another with --python, or let both have it: this machine, and with its headers the system of "
            f"{variant.platform.words} that is built for (in Docker: name an image that has it with --base-image)"
        )
    return NoPythonError(
        f"no CPython for torch {variant.on_platform} (asked for: {requested})",
        where=f"torch has wheels for {listed(variant.cpython)}; the project requires {requires_python or 'any'}; "
        f"the engine has: {listed(list(engine))}",
        next_step=next_step,
    )
