"""What the source of a core must be, before anything is built: without torch, and of one pybind11 with the variants."""

from __future__ import annotations

from collections.abc import Iterable

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from torch_build_farm.core.errors import ConfigError, SourceError
from torch_build_farm.core.requirements import read_requirement
from torch_build_farm.project.core_table import Core
from torch_build_farm.project.settings import TABLE, Project
from torch_build_farm.project.tree import Source
from torch_build_farm.project.variant import Variant


def check(project: Project, core: Core, source: Source, core_source: Source, variants: Iterable[Variant]) -> None:
    """Raise SourceError for a core that is not what the table says or requires torch; ConfigError for a pybind11 that
    may be another in the core than in one of `variants`.
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
    _check_pybind11(project, (source, core_source), variants)


def _check_pybind11(project: Project, sources: Iterable[Source], variants: Iterable[Variant]) -> None:
    """Raise ConfigError where builds require pybind11 and nothing says which one all of them get.

    Without a core each build gets the one among its torch's headers; a core has no torch, and one wheel for all minors.
    """
    settings = project.settings
    of_project = _requirements((*settings.build_requires, *settings.build_constraints), "pybind11")
    undecided = False
    for source in sources:
        of_source = _requirements(source.metadata.build_requires, "pybind11")
        if of_source and not any(_is_exact(requirement) for requirement in (*of_source, *of_project)):
            undecided = True
    if not undecided:
        return
    bundled: dict[str, list[str]] = {}
    for variant in variants:
        if variant.pybind11:
            bundled.setdefault(variant.pybind11, []).append(str(variant.torch))
    listed = "; ".join(f"{version} of torch {', '.join(minors)}" for version, minors in bundled.items())
    example = max(bundled, key=Version, default="3.0.1")
    raise ConfigError(
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


def _is_exact(requirement: Requirement) -> bool:
    """Whether a requirement admits one version alone."""
    return any(
        specifier.operator in ("==", "===") and not specifier.version.endswith("*")
        for specifier in requirement.specifier
    )
