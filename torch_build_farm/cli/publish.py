"""`publish` and `meta`.

`publish` checks that everything is proven, plans, uploads in order, and installs what users then get from the index.
`meta` makes the wheels behind the one name.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path

from packaging.utils import canonicalize_name

from torch_build_farm.cli.answer import Answer
from torch_build_farm.cli.arguments import (
    CommonOptions,
    Parser,
    add_common_arguments,
    add_list_argument,
    add_upload_arguments,
    add_wait_argument,
    positive,
)
from torch_build_farm.cli.command import Command
from torch_build_farm.cli.console import in_ci
from torch_build_farm.cli.context import Context
from torch_build_farm.core.errors import ConfigError, PublishError, UsageError, nearest
from torch_build_farm.core.files import clear, copy_whole, replace_text, sha256, size_text
from torch_build_farm.core.machine import MACHINES
from torch_build_farm.core.package_index import PackageIndex
from torch_build_farm.core.urls import public
from torch_build_farm.pipeline import workfolder
from torch_build_farm.project.settings import Project
from torch_build_farm.publish import install_check, inventory, published_list, served_platforms, upload, upload_plan
from torch_build_farm.publish.core_wheels import CoreWheels
from torch_build_farm.publish.install_check import Release
from torch_build_farm.publish.inventory import Published, VariantFile
from torch_build_farm.publish.names import IndexNames
from torch_build_farm.publish.private_copies import PrivateCopy, PrivateFolder, digest_of, private_folder
from torch_build_farm.publish.publication import Item, Publication, PublishPlan
from torch_build_farm.publish.published_list import PublishedFile, PublishedList
from torch_build_farm.publish.upload import Target
from torch_build_farm.wheels import one_name
from torch_build_farm.wheels.one_name import Family
from torch_build_farm.wheels.wheel import reissued

_STATES = {"new": "new", "there": "already there", "kept": "published earlier, stays as it is"}


@dataclass(frozen=True, kw_only=True)
class PublishOptions(CommonOptions):
    """Options of `publish`; `run --publish` gives the first four."""

    index: str
    index_url: str | None
    yes: bool
    wait: bool
    only: tuple[str, ...] = ()
    build_number: int | None = None
    names: tuple[str, ...] = ()
    no_check: bool = False


@dataclass(frozen=True, kw_only=True)
class MetaOptions(CommonOptions):
    """Options of `meta`."""

    offline: bool
    wait: bool


@dataclass(frozen=True, kw_only=True)
class PublishAnswer(Publication, Answer):
    """The document of `publish`."""


@dataclass(frozen=True, kw_only=True)
class MetaAnswer(Answer):
    """The document of `meta`: each minor's last version, the new wheels, and the older wheels that are left out."""

    version: str
    variants: dict[str, str]
    wheels: tuple[Path, ...]
    left_out: tuple[str, ...]


def _configure_publish(parser: Parser) -> None:
    add_common_arguments(parser)
    parser.add_argument("index", metavar="INDEX", help="pypi, testpypi, or the URL that twine uploads to")
    add_list_argument(parser, "--only", "FILE", "only variants with such file names; * and ? match")
    parser.add_argument("--build-number", type=positive, metavar="N", help="re-issue those of --only as build N")
    add_list_argument(parser, "--names", "NAME", "upload only these distributions")
    add_upload_arguments(parser)
    parser.add_argument("--no-check", action="store_true", help="leave the installation of what users get to `check`")
    add_wait_argument(parser)


def _configure_meta(parser: Parser) -> None:
    add_common_arguments(parser)
    parser.add_argument("--offline", action="store_true", help="do not ask the index for variants published earlier")
    add_wait_argument(parser)


def _select_variants(project: Project, options: PublishOptions, wheels: Sequence[VariantFile]) -> list[VariantFile]:
    """The variants to publish: those of the newest version that --only names.

    Raises MetaError if none is built, UsageError if --only matches none.
    """
    version = inventory.newest_version(project, wheels)
    patterns = options.only or ["*"]
    selected = []
    for wheel in wheels:
        is_selected = any(fnmatchcase(wheel.name, pattern) for pattern in patterns)
        # work/dist may hold older versions too, which do not belong to this family.
        if is_selected and wheel.version == version:
            selected.append(wheel)
    if not selected:
        raise UsageError("no built variant matches", where="--only", next_step="wheels are in work/dist")
    # A build number replaces published files: nobody should do that for all variants by accident.
    if options.build_number is not None and not options.only:
        raise UsageError("--build-number re-issues what --only names", next_step="--only '*torch28*' --build-number 1")
    return selected


@dataclass(frozen=True)
class _Variants:
    """The variants in work/dist: copies of those to publish, those that a family may have, and what is proven.

    All of `family` is proven and copied. `proven` is the SHA-256 of these and of older wheels, by file name.
    """

    selected: tuple[PrivateCopy, ...]
    family: tuple[VariantFile, ...]
    proven: Mapping[str, str]


def _require_proven(context: Context, problems: Sequence[str]) -> None:
    """Raise PublishError where anything speaks against a proof."""
    if problems:
        message = "not everything is proven:"
        for problem in problems:
            message += f"\n  - {problem}"
        raise PublishError(
            message,
            where=str(context.work),
            next_step="build and smoke-test with this work folder, then publish again",
        )


def _read_variants(
    context: Context, options: PublishOptions, project: Project, listed: Collection[str], folder: PrivateFolder
) -> _Variants:
    """Copy the variants in work/dist into a private folder, and look for the proofs of what was copied.

    `listed` are the files that published.json has of the index. Raises PublishError if one that is to be published is
    not proven, and as `_select_variants` does.
    """
    wheels = inventory.variant_wheels(project, context.work / "dist")
    selected = {wheel.name for wheel in _select_variants(project, options, wheels)}
    last = inventory.last_built(wheels, inventory.newest_version(project, wheels))
    copies: dict[str, PrivateCopy] = {}
    digests: dict[str, str] = {}
    for wheel in wheels:
        assert wheel.path is not None  # they come from a folder
        if wheel.version == last.get(wheel.minor) or wheel.name in selected:
            copies[wheel.name] = folder.copy(wheel.path)
            digests[wheel.name] = copies[wheel.name].sha256
        # No family has an older one. It only says whose the index's file of that name is, if the list does not say it.
        elif wheel.name not in listed:
            digests[wheel.name] = digest_of(wheel.path)
    doubts = upload_plan.doubts(digests, context.work)
    _require_proven(context, [doubts[name] for name in digests if name in selected and name in doubts])
    # Nothing of a wheel is read before it is known to be the farm's.
    family = []
    for wheel in wheels:
        if wheel.name in copies and wheel.name not in doubts:
            family.append(inventory.with_metadata(wheel, copies[wheel.name].path))
    proven = {name: digest for name, digest in digests.items() if name not in doubts}
    return _Variants(tuple(copies[name] for name in sorted(selected)), tuple(family), proven)


def _read_cores(context: Context, cores: CoreWheels, folder: PrivateFolder) -> list[PrivateCopy]:
    """Copy the core's wheels into a private folder. Raises PublishError for one that is not proven."""
    copies = [folder.copy(path) for path in cores.wheels]
    doubts = upload_plan.doubts({copy.path.name: copy.sha256 for copy in copies}, context.work)
    _require_proven(context, list(doubts.values()))
    return copies


def _reissued(context: Context, copies: Sequence[PrivateCopy], number: int, folder: PrivateFolder) -> list[PrivateCopy]:
    """The re-issues of wheels under a build number, which for people lie in work/reissued."""
    shown = context.work / "reissued"
    clear(shown)
    new_copies = []
    for copy in copies:
        path = reissued(copy.path, number, folder.path)
        copy_whole(path, shown / path.name)
        new_copies.append(folder.made(path, shown / path.name))
    return new_copies


def _wheels_behind_name(context: Context, family: Family, folder: PrivateFolder) -> list[PrivateCopy]:
    """The wheels behind the one name, which for people lie in work/dist."""
    copies = []
    for path in one_name.write(family, folder.path):
        shown = context.work / "dist" / path.name
        copy_whole(path, shown)
        copies.append(folder.made(path, shown))
    return copies


def _show_plan(context: Context, target: Target, plan: PublishPlan, warnings: Sequence[str]) -> None:
    """Print the files in the order of their uploads, the new names in groups, and the warnings."""
    context.say(f"publish to {target.name}, in this order:")
    for number, item in enumerate(plan.items, 1):
        context.say(f"  {number:2}  {item.path.name}  {size_text(item.size)}  {_STATES[item.state]}")
    for number, wave in enumerate(plan.waves, 1):
        names = ", ".join(wave)
        context.say(f"  names not on the index yet, wave {number} of pending publishers: {names}")
    for warning in warnings:
        context.say(f"  warning: {warning}")


def _select_uploads(names: Sequence[str], plan: PublishPlan) -> list[Item]:
    """The items to upload: all that are due, or with --names those of these distributions.

    Raises UsageError for a name that is not in the plan, PublishError where something else has to go first.
    """
    if not names:
        return list(plan.due)
    planned_names = list(dict.fromkeys(item.name for item in plan.items))
    selected_names = {canonicalize_name(name) for name in names}
    for name in sorted(selected_names):
        if name not in planned_names:
            raise UsageError(f"{name} is not published here; {nearest(name, planned_names)}", where="--names")
    selected = [item for item in plan.due if item.name in selected_names]
    if not selected:  # all of them are on the index already
        return []

    # Wheels go after what they require: nothing that is due may be left out before the last that is selected.
    last = selected[-1]
    for item in plan.due:
        if item == last:
            break
        if item not in selected:
            raise PublishError(
                f"{item.path.name} has to be on the index before {last.path.name}",
                where=f"--names {' '.join(names)}",
                next_step=f"publish {item.name} first, or both: wheels go after what they require",
            )
    return selected


def _check_installs(context: Context, release: Release, target: Target, names: Collection[str]) -> list[str]:
    """Install NAME[torchNN] of minors from the index, and import it where that sees no credentials.

    `names` are the distributions of this publication: what came earlier was checked then, and takes gigabytes of torch.

    Returns warnings about what was left to `check`. Raises PublishError if that fails, NoPythonError if no CPython on
    this machine can install a variant.
    """
    project = release.project
    shell = upload.shell_without_credentials(context.runner, context.work)
    variants = [v for v in project.variants_of(MACHINES) if canonicalize_name(project.distribution(v)) in names]
    warnings = []
    for installation in install_check.check_variants(
        release, variants, store=context.store, shell=shell, isolated_only=True
    ):
        if installation.not_imported and not installation.for_another_machine:
            warning = (
                f"{installation.what} was not imported: this process holds credentials, and the machine isolates none "
                f"({installation.not_imported}); run where no credentials are: torch-build-farm check {target.name}"
            )
            warnings.append(warning)
            context.say(f"warning: {warning}")
        else:
            context.say(installation.line(target.name))
    return warnings


def _add_to_list(context: Context, project: Project, published: PublishedList, new: Sequence[PublishedFile]) -> None:
    """Add files to the project's published.json, and write the list into the work folder for a job that cannot do that.

    `published` is the list as it was read at first.
    """
    published_list.write(published.with_files(new), context.work)
    path = project.root / published_list.NAME
    try:
        # Read again: an upload takes minutes, in which another publication, `adopt` or a merge may have changed it.
        published_list.write(published_list.read(project.root).with_files(new), project.root)
    except (OSError, ConfigError) as error:
        reason = error.strerror if isinstance(error, OSError) else error.what
        context.say(
            f"warning: {path} cannot be written ({reason}): take over the lines of {context.work / published_list.NAME}"
        )


@dataclass(frozen=True)
class _Prepared:
    """All that an upload needs: the plan, the private copy of each file by its name, and whose names the index has."""

    project: Project
    version: str
    target: Target
    plan: PublishPlan
    warnings: tuple[str, ...]
    copies: Mapping[str, PrivateCopy]
    names: IndexNames


def _prepare(context: Context, options: PublishOptions, folder: PrivateFolder) -> _Prepared:
    """Read and check what is to be published, and compare it with the index. Uploads nothing.

    Raises MetaError, UsageError, PublishError, ConfigError, PackageIndexError.
    """
    target = Target.of(options.index, options.index_url or "")
    project = context.load_project()
    published = published_list.read(project.root)
    variants = _read_variants(context, options, project, published.of(target.name), folder)

    cores = CoreWheels.of(project, variants.selected, context.work)
    core_copies = _read_cores(context, cores, folder)
    proven = {**variants.proven, **{copy.path.name: copy.sha256 for copy in core_copies}}

    # What the index has counts if it is in the list, or has the bytes of a proven wheel.
    names = IndexNames(target.index, published, folder.path, proven)
    cores.require_all(names)
    to_publish = {canonicalize_name(copy.path.name.split("-")[0]) for copy in variants.selected}
    on_index = inventory.published(project, names, to_publish, target.name)

    # The family: what is published now, and what the index has.
    selected = {copy.path.name for copy in variants.selected}
    there = selected | {file.name for file in on_index.files}
    built = [file for file in variants.family if file.name in there]
    family = inventory.family(project, built, on_index.files)

    uploaded = list(variants.selected)
    if options.build_number is not None:
        uploaded = _reissued(context, uploaded, options.build_number, folder)
    behind = _wheels_behind_name(context, family, folder)
    uploaded = [*core_copies, *uploaded]
    copies = {copy.path.name: copy for copy in (*uploaded, *behind)}
    names = replace(names, built={**proven, **{name: copy.sha256 for name, copy in copies.items()}})
    plan = upload_plan.plan(project, uploaded, behind, names, target.name)

    warnings = [*plan.warnings, *on_index.notes]
    without_rungs = one_name.without_rungs(family)
    if without_rungs:
        warnings.append(without_rungs)
    return _Prepared(project, family.version, target, plan, tuple(warnings), copies, names)


def _upload(context: Context, prepared: _Prepared, uploads: Sequence[Item]) -> PublishedList:
    """Upload what is due, and note each file that the index then has with the same bytes; returns the new list.

    Raises UploadRefusedError and PublishError.
    """
    project, target, plan = prepared.project, prepared.target, prepared.plan
    # The check renders descriptions that the wheels bring: no credential is needed for that.
    without = upload.shell_without_credentials(context.runner, context.work)
    upload.check([copy.path for copy in prepared.copies.values()], without)
    shell = upload.shell_for(target, context.runner, context.work)
    # All of them before the first goes: half a release would be there otherwise.
    for copy in prepared.copies.values():
        copy.check()
    new: list[PublishedFile] = []
    for item in plan.items:
        if item in uploads:
            context.runner.check()
            copy = prepared.copies[item.path.name]
            upload.upload(item, copy, target, prepared.names, shell, item.name not in plan.new_names)
            context.say(f"uploaded {item.path.name}, sha256 {item.sha256}")
        elif item.state == "new":  # left out by --names
            continue
        # At once: a later release may count on the file, also if this one is interrupted.
        new.append(PublishedFile(item.name, item.path.name, target.name, item.sha256))
        _add_to_list(context, project, prepared.names.published, new)
    published = prepared.names.published.with_files(new)
    if published != prepared.names.published:
        context.say(
            f"{project.root / published_list.NAME} lists what was published: commit it, the next release needs it"
        )
    return published


def publish_built(context: Context, options: PublishOptions) -> Publication:
    """Publish what is built; only show the plan, unless --yes is given or CI is set.

    Raises MetaError if nothing is built, and all that the steps raise: UsageError, ConfigError, PublishError,
    UploadRefusedError, PackageIndexError, NoPythonError.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(workfolder.locked(context.work, context.runner, options.wait, context.say))
        folder = stack.enter_context(private_folder(context.work))

        # The plan is shown before anything is uploaded; a mistake in --names ends the call here.
        prepared = _prepare(context, options, folder)
        _show_plan(context, prepared.target, prepared.plan, prepared.warnings)
        uploads = _select_uploads(options.names, prepared.plan)

        warnings = list(prepared.warnings)
        dry_run = not options.yes and not in_ci()
        if dry_run:
            context.say("a dry run: nothing was uploaded; --yes uploads")
        else:
            published = _upload(context, prepared, uploads)
            # With --names the family on the index may still be incomplete: what users get cannot be installed yet.
            if not options.names and not options.no_check:
                stack.enter_context(context.store.in_use())
                stack.enter_context(context.store.environments())
                target = prepared.target
                release = Release(prepared.project, prepared.version, target.index, published.of(target.name))
                warnings += _check_installs(context, release, target, {item.name for item in prepared.plan.items})
    return Publication(
        target=prepared.target.name,
        version=prepared.version,
        dry_run=dry_run,
        files=prepared.plan.items,
        waves=prepared.plan.waves,
        warnings=tuple(warnings),
    )


def _publish(context: Context, options: PublishOptions) -> int:
    """`publish`: upload variants that are built and proven, and the wheels behind the one name."""
    publication = publish_built(context, options)
    context.answer(PublishAnswer(**vars(publication)))
    return 0


def _on_configured_index(context: Context, project: Project, built: Sequence[VariantFile]) -> Published:
    """The project's variants on the index that uv is configured for."""
    digests = {file.name: sha256(file.path) for file in built if file.path}
    context.work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=context.work) as scratch:
        index = PackageIndex.configured()
        names = IndexNames(index, published_list.read(project.root), Path(scratch), digests)
        return inventory.published(project, names, (), public(index.url) or "pypi")


def _meta(context: Context, options: MetaOptions) -> int:
    """`meta`: make the wheels behind the one name and COMPATIBILITY.md, for the variants built here and published."""
    project = context.load_project()
    dist = context.work / "dist"
    # Retired minors are built nowhere any more: only the index still has their last variants.
    built = inventory.built(project, dist)
    published = Published((), ()) if options.offline else _on_configured_index(context, project, built)
    family = inventory.family(project, built, published.files)
    compatibility_file = context.work / "COMPATIBILITY.md"
    with workfolder.locked(context.work, context.runner, options.wait, context.say):
        wheels = one_name.write(family, dist)
        compatibility = inventory.compatibility(family, [*published.files, *built])
        replace_text(compatibility_file, compatibility)

    left_out = set()
    for file in built:
        if family.last[file.minor] != file.version:
            left_out.add(file.name)
    context.answer(
        MetaAnswer(
            version=family.version,
            variants={str(minor): version for minor, version in family.last.items()},
            wheels=tuple(wheels),
            left_out=tuple(sorted(left_out)),
        )
    )
    for path in wheels:
        context.say(f"wrote {path}")
    without_rungs = one_name.without_rungs(family)
    if without_rungs:
        context.say(without_rungs)
    for note in published.notes:
        context.say(note)
    for doubt in upload_plan.proven([file.path for file in built if file.path], context.work):
        context.say(f"not proven, so publish refuses it: {doubt}")
    of_version = [file.name for file in [*published.files, *built] if file.version == family.version]
    for gap in served_platforms.missing(project, of_version, family.version):
        context.say(gap)
    for name in sorted(left_out):
        context.say(f"left out {name}: {family.version} is newer")
    context.say(f"wrote {compatibility_file}:\n\n{compatibility}")
    return 0


COMMANDS = {
    "publish": Command(PublishOptions, _configure_publish, _publish, PublishAnswer),
    "meta": Command(MetaOptions, _configure_meta, _meta, MetaAnswer),
}
