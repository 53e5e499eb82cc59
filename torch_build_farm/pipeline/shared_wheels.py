"""Wheels that serve several CPythons: built for the first of a variant's jobs, smoke-tested for each.

Which CPythons a wheel serves stands in its tag, which is known once it is built. Until then the source's build files
tell whether waiting for the first job's wheel may save the others' builds.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import PurePosixPath

from packaging.tags import compatible_tags, cpython_tags
from packaging.utils import parse_wheel_filename

from torch_build_farm.core.errors import SourceError
from torch_build_farm.core.versions import CPython
from torch_build_farm.project import source_files
from torch_build_farm.project.plan import Job
from torch_build_farm.project.settings import Settings
from torch_build_farm.project.tree import Source

# What back ends call it: py-api (scikit-build-core), py_limited_api (setuptools), limited-api (meson-python), abi3 and
# abi3-audit (maturin), --python-tag and a get_tag of a setup.py's own.
_SHARED = re.compile(r"(?i)abi3|limited[-_.]?api|py[-_]api|python[-_]tag|\bget_tag\b|py3-none")
_BUILD_FILES = {"pyproject.toml", "setup.py", "setup.cfg", "CMakeLists.txt", "meson.build"}
_MOST_FILES = 200  # that are looked into


def serves(wheel: str, python: CPython) -> bool:
    """Whether a wheel of that file name installs for `python`, whatever the platform."""
    version = (python.major, python.minor)
    accepted = {
        (tag.interpreter, tag.abi)
        for tag in (
            *cpython_tags(version, abis=[python.tag], platforms=["any"]),
            *compatible_tags(version, python.tag.removesuffix("t"), platforms=["any"]),
        )
    }
    return any((tag.interpreter, tag.abi) in accepted for tag in parse_wheel_filename(wheel)[3])


def jobs_of_variant(jobs: Iterable[Job], job: Job) -> list[Job]:
    """The jobs of the same variant and platform, the one with the oldest CPython first."""
    of_variant = (job.distribution, job.platform)
    return sorted(
        [other for other in jobs if (other.distribution, other.platform) == of_variant],
        key=lambda other: other.python,
    )


def earlier_jobs(jobs: Iterable[Job], job: Job) -> list[Job]:
    """The jobs of the same variant and platform with an older CPython, the oldest first."""
    return [other for other in jobs_of_variant(jobs, job) if other.python < job.python]


def may_be_shared(source: Source, settings: Settings) -> bool:
    """Whether the build files or settings name a tag for several CPythons.

    It decides only whether jobs wait for each other: a wheel is shared where its tag says so.
    """
    texts = [*settings.environment.values(), *settings.cmake_defines, *settings.cmake_defines.values()]
    build_files = [file for file in source.files if PurePosixPath(file.path).name in _BUILD_FILES]
    for file in build_files[:_MOST_FILES]:
        if file.content is not None:  # a patch, or another file in its place
            texts.append(file.content.decode("utf-8", "replace"))
            continue
        try:
            texts.append(source_files.text(source.root, file.path))
        except SourceError:  # too large to be written by hand
            continue
    return any(_SHARED.search(text) for text in texts)
