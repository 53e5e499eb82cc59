"""What a release has no wheels for, of platforms and CPythons that it serves otherwise, or that it served before."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from packaging.utils import canonicalize_name, parse_wheel_filename
from packaging.version import Version

from torch_build_farm.core.machine import MACHINES, Machine
from torch_build_farm.core.versions import CPython
from torch_build_farm.pipeline.shared_wheels import serves
from torch_build_farm.project.settings import Project
from torch_build_farm.project.variant import Variant
from torch_build_farm.publish.names import IndexFile, distribution_of
from torch_build_farm.wheels import platforms
from torch_build_farm.wheels.platforms import Platform


def warnings(project: Project, variants: Iterable[str], on_index: Iterable[IndexFile], version: str) -> list[str]:
    """A warning for each platform that `version` has no wheel for, and for each wheel that only one platform lacks.

    `variants` are the file names of those that are to be published, `on_index` all files of their names, and of the one
    name, on the index.
    """
    new = Version(version)
    wheels_of_version = list(variants)
    last_release: dict[Platform, Version] = {}  # with a wheel for the platform
    for file in on_index:
        if file.file.is_yanked or distribution_of(file.file_name) != file.name or not file.file_name.endswith(".whl"):
            continue
        _, released, _, _ = parse_wheel_filename(file.file_name)
        if released == new and file.name != canonicalize_name(project.settings.name):
            wheels_of_version.append(file.file_name)
        if released < new:
            for platform in platforms.of_wheel(file.file_name):
                last_release[platform] = max(released, last_release.get(platform, released))
    return [*_lost(project, wheels_of_version, last_release, version), *missing(project, wheels_of_version, version)]


def _lost(project: Project, wheels: Iterable[str], last_release: Mapping[Platform, Version], version: str) -> list[str]:
    """A warning where earlier releases have wheels for platforms that `version`, which has `wheels`, has none for."""
    served = platforms.of_wheels(wheels)
    lost = sorted(set(last_release) - served) if served else []
    if not lost:
        return []
    releases = ", ".join(f"{last_release[platform]} for {platform}" for platform in lost)
    return [
        f"{project.settings.name} {version} has no wheel for platforms that earlier releases served ({releases}): "
        "there it installs without a variant, and its import says so"
    ]


def missing(project: Project, wheels: Sequence[str], version: str) -> list[str]:
    """A warning for each variant of `version` that lacks, on one platform, what it has on another.

    The platforms are those that `platforms` of the settings names, and those of the `wheels`, which are file names.
    """
    of_wheels = platforms.of_wheels(wheels)
    expected = [
        machine
        for machine in MACHINES
        if machine in project.settings.platforms or platforms.of_machine(machine) in of_wheels
    ]
    sentences = []
    for by_platform in project.by_minor.values():
        described = {machine: variant for machine, variant in by_platform.items() if machine in expected}
        sentences += _missing_of(project, described, wheels, version)
    return sentences


def _missing_of(
    project: Project, variants: Mapping[Machine, Variant], wheels: Iterable[str], version: str
) -> list[str]:
    """The sentences for one variant, which has facts for each platform that torch has wheels for."""
    pythons: dict[Machine, list[CPython]] = {}  # that the wheels of a platform are for
    name = ""
    for machine, variant in variants.items():
        name = project.distribution(variant)
        own = [
            wheel
            for wheel in wheels
            if distribution_of(wheel) == canonicalize_name(name) and platforms.installs_on(wheel, machine)
        ]
        pythons[machine] = [python for python in variant.cpython if any(serves(wheel, python) for wheel in own)]
    if not any(pythons.values()):  # this release leaves the variant out
        return []

    sentences = []
    on_some = {python for of_machine in pythons.values() for python in of_machine}
    for machine, variant in variants.items():
        lacking = [python for python in variant.cpython if python in on_some and python not in pythons[machine]]
        if not pythons[machine]:
            sentences.append(
                f"{name} {version} has no wheel for {machine.words}: there it installs without a variant, and its "
                "import says so"
            )
        elif lacking:
            listed = ", ".join(map(str, sorted(lacking)))
            sentences.append(
                f"{name} {version} has no wheel of CPython {listed} for {machine.words}, as it has for other "
                "platforms: there nobody can install it"
            )
    return sentences
