"""`check`: install what users get from a package index, compare it with what was published, and import it."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import InvalidVersion

from torch_build_farm.cli.answer import Answer
from torch_build_farm.cli.arguments import (
    CommonOptions,
    Parser,
    add_common_arguments,
    add_index_url_argument,
    add_list_argument,
    add_wait_argument,
)
from torch_build_farm.cli.command import Command
from torch_build_farm.cli.context import Context
from torch_build_farm.core.errors import UsageError
from torch_build_farm.core.machine import MACHINES
from torch_build_farm.core.requirements import read_version
from torch_build_farm.pipeline import workfolder
from torch_build_farm.project.plan import parse_platforms
from torch_build_farm.project.settings import Project
from torch_build_farm.publish import install_check, published_list, upload
from torch_build_farm.publish.published_list import PublishedList
from torch_build_farm.publish.upload import Target


@dataclass(frozen=True, kw_only=True)
class CheckOptions(CommonOptions):
    """Options of `check`."""

    index: str
    version: str | None
    platform: tuple[str, ...]
    index_url: str | None
    wait: bool


@dataclass(frozen=True, kw_only=True)
class CheckAnswer(Answer):
    """The document of `check`: what was installed from `target` and imported, each with its CPython.

    `downloaded` is what is for another machine, and was not imported.
    """

    target: str
    version: str
    installed: dict[str, str]
    downloaded: dict[str, str]


def _configure_parser(parser: Parser) -> None:
    add_common_arguments(parser)
    parser.add_argument("index", metavar="INDEX", help="pypi, testpypi, or the URL that it was published to")
    parser.add_argument("version", nargs="?", metavar="VERSION", help="the version (default: the newest published)")
    add_list_argument(parser, "--platform", "PLATFORM", "only wheels for x86_64, aarch64 (arm64) or all (default: all)")
    add_index_url_argument(parser)
    add_wait_argument(parser)


def _version(text: str) -> str:
    """A version in its normal form. Raises UsageError for what is none."""
    try:
        return str(read_version(text))
    except InvalidVersion:
        raise UsageError(f"{text} is not a version", where="VERSION", next_step="such as 1.0") from None


def _newest(published: PublishedList, project: Project, target: Target) -> str:
    """The newest version of the one name that was published to the index. Raises UsageError if there is none."""
    name = canonicalize_name(project.settings.name)
    versions = []
    for file in published.of(target.name):
        with contextlib.suppress(InvalidWheelFilename):  # an sdist, from before the farm
            distribution, version, _, _ = parse_wheel_filename(file)
            if distribution == name:
                versions.append(version)
    if not versions:
        raise UsageError(
            f"nothing of {name} was published to {target.name}, as far as {published_list.NAME} knows",
            where=str(project.root / published_list.NAME),
            next_step="take the list that `publish` left in the work folder and put it beside pyproject.toml",
        )
    return str(max(versions))


def _check(context: Context, options: CheckOptions) -> int:
    """`check`: install NAME[torchNN] of each published minor from the index, and import it."""
    target = Target.of(options.index, options.index_url or "")
    project = context.load_project()
    published = published_list.read(project.root)
    version = _version(options.version) if options.version else _newest(published, project, target)
    release = install_check.Release(project, version, target.index, published.of(target.name))
    platforms = parse_platforms(options.platform)
    variants = project.variants_of(platforms or MACHINES)
    installed: dict[str, str] = {}
    downloaded: dict[str, str] = {}
    with (
        workfolder.locked(context.work, context.runner, options.wait, context.say),
        context.store.in_use(),
        context.store.environments(),
    ):
        shell = upload.shell_without_credentials(context.runner, context.work)
        for installation in install_check.check_variants(
            release, variants, store=context.store, shell=shell, isolated_only=False
        ):
            context.say(installation.line(target.name))
            checked = downloaded if installation.for_another_machine else installed
            checked[installation.what] = str(installation.python)
    if not installed and not downloaded:
        words = " or ".join(platform.words for platform in platforms)
        for_platforms = f" for {words}" if platforms else ""
        raise UsageError(
            f"no variant of {project.settings.name} {version}{for_platforms} was published to {target.name}",
            where=str(project.root / published_list.NAME),
            next_step="name a version that it lists",
        )
    context.answer(CheckAnswer(target=target.name, version=version, installed=installed, downloaded=downloaded))
    return 0


COMMANDS = {"check": Command(CheckOptions, _configure_parser, _check, CheckAnswer)}
