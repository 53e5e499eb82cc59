"""What the source of a core must be, before anything is built: without torch, and of one pybind11 with the variants."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from torch_build_farm.core.errors import ConfigError, SourceError
from torch_build_farm.core.requirements import read_requirement, read_version
from torch_build_farm.core.versions import CPython
from torch_build_farm.project.core_table import Core
from torch_build_farm.project.plan import Job
from torch_build_farm.project.settings import TABLE, Project
from torch_build_farm.project.tree import Source


def check(
    project: Project, core: Core, core_source: Source, jobs: Iterable[Job], sources: Mapping[str, Source]
) -> None:
    """Raise SourceError for a core that is not what the table says or requires torch; ConfigError for a pybind11 that
    may be another in the core than in a variant. `sources` are those of `jobs`, by id.
    """
    place = str(core_source.project / core.pyproject)
    stated = core_source.metadata.name
    if canonicalize_name(stated) != canonicalize_name(core.name):
        raise SourceError(
            f"the core's distribution is called {stated or 'nothing'}, and core.name is {core.name}",
            where=place,
            next_step=f'name = "{stated}" in [tool.{TABLE}.core]' if stated else "state its name there",
        )
    for requirement in _requirements((*core_source.metadata.requires, *core_source.metadata.build_requires), "torch"):
        # An extra is its users' choice.
        if "extra" not in str(requirement.marker or ""):
            raise SourceError(
                f"the core requires {requirement}, and a core is built and tested without torch",
                where=place,
                next_step="move what needs torch to the variants, or leave the requirement out",
            )
    _check_pybind11(project, jobs, sources)


def _check_pybind11(project: Project, jobs: Iterable[Job], sources: Mapping[str, Source]) -> None:
    """Raise ConfigError where builds require pybind11 and nothing says which one, or not the same one, all of them get.

    Without a core each build gets the one among its torch's headers; a core has no torch, and one wheel for all minors.
    """
    jobs = list(jobs)
    by_python: dict[CPython, dict[Version, str]] = {}  # each version, with a place that names it
    for job in jobs:
        required, constraints = _on_pybind11(project, job, sources[job.id])
        if not required:
            continue
        exact = _exact_versions(required + constraints)
        if not exact:
            raise _no_version(project, jobs)
        by_python[job.python] = exact | by_python.get(job.python, {})
    for versions in by_python.values():
        if len(versions) > 1:
            listed = "; ".join(f"{version} by {place}" for version, place in versions.items())
            raise ConfigError(
                f"a core and its variants are built with one version of pybind11, and these are named: {listed}",
                where=str(project.root / "pyproject.toml"),
                next_step="name the same version in all of them",
            )


_Stated = tuple[Requirement, str]  # a requirement, and where it is stated


def _on_pybind11(project: Project, job: Job, source: Source) -> tuple[list[_Stated], list[_Stated]]:
    """What a job's build requires of pybind11, and the constraints on it, as they apply to the job's CPython."""
    settings = project.settings.for_job(job.variant, job.python)
    file = source.project / (settings.pyproject or "pyproject.toml")
    environment = {"python_version": job.python.release, "python_full_version": f"{job.python.release}.0"}

    def stated(texts: Iterable[str], place: str) -> list[_Stated]:
        applicable = []
        for requirement in _requirements(texts, "pybind11"):
            if requirement.marker is None or requirement.marker.evaluate(environment):
                applicable.append((requirement, place))
        return applicable

    required = stated(source.metadata.build_requires, f"the build requirements of {job.distribution} ({file})")
    required += stated(settings.build_requires, f"build-requires of [tool.{TABLE}]")
    return required, stated(settings.build_constraints, f"build-constraints of [tool.{TABLE}]")


def _no_version(project: Project, jobs: Iterable[Job]) -> ConfigError:
    """The error for a build whose pybind11 is undecided, with the versions among the headers of the jobs' torch."""
    bundled: dict[str, list[str]] = {}
    for variant in {job.variant.on_platform: job.variant for job in jobs if job.variant.needs_torch}.values():
        if variant.pybind11:
            bundled.setdefault(variant.pybind11, []).append(variant.on_platform)
    listed = "; ".join(f"{version} of torch {', '.join(minors)}" for version, minors in bundled.items())
    example = max(bundled, key=Version, default="3.0.1")
    return ConfigError(
        "beside a core no build is held to the pybind11 of its torch, and nothing says which version all of them get"
        + (f"; among torch's headers are {listed}" if listed else ""),
        where=str(project.root / "pyproject.toml"),
        next_step=f'name one: build-constraints = ["pybind11=={example}"] in [tool.{TABLE}]',
    )


def _requirements(texts: Iterable[str], name: str) -> list[Requirement]:
    """Those of the requirements that are on the distribution `name`."""
    requirements = []
    for text in texts:
        try:
            requirement = read_requirement(text)
        except InvalidRequirement:  # the build says so, with its place
            continue
        if canonicalize_name(requirement.name) == name:
            requirements.append(requirement)
    return requirements


def _exact_versions(stated: Iterable[_Stated]) -> dict[Version, str]:
    """The versions that requirements name alone, each with the first place that does."""
    places: dict[Version, str] = {}
    for requirement, place in stated:
        for specifier in requirement.specifier:
            if specifier.operator not in ("==", "===") or specifier.version.endswith("*"):
                continue
            try:
                places.setdefault(read_version(specifier.version), place)
            except InvalidVersion:  # as === may name it; pybind11 has no such version
                continue
    return places
