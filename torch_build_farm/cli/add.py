"""`add`: write a torch minor's variant from the release itself, and build and prove it."""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch_build_farm.audit import changes
from torch_build_farm.audit.changes import Changes, ChangesDocument
from torch_build_farm.audit.tables import AuditTables
from torch_build_farm.cli import evidence, index, run
from torch_build_farm.cli.answer import Answer
from torch_build_farm.cli.arguments import (
    CommonOptions,
    Parser,
    add_common_arguments,
    add_engine_arguments,
    add_flavours_index_argument,
    add_list_argument,
    add_platforms_argument,
    add_pre_argument,
)
from torch_build_farm.cli.command import Command
from torch_build_farm.cli.context import Context
from torch_build_farm.cli.run import StageOptions
from torch_build_farm.cli.run_answer import RunAnswer
from torch_build_farm.core.errors import EngineError, UnknownTorchError, UsageError
from torch_build_farm.core.files import replace_text, sha256
from torch_build_farm.core.machine import Machine
from torch_build_farm.core.package_index import PackageIndex
from torch_build_farm.core.versions import Minor
from torch_build_farm.engines.docker.client import connect
from torch_build_farm.engines.docker.images import registry_digest
from torch_build_farm.pipeline import records
from torch_build_farm.pipeline.results import RunResult
from torch_build_farm.pipeline.stage import Mode
from torch_build_farm.pipeline.stages.order import stages_with
from torch_build_farm.project.plan import parse_platforms
from torch_build_farm.project.settings import Project
from torch_build_farm.project.variant import Variant, file_name
from torch_build_farm.publish import inventory
from torch_build_farm.releases import facts, variant_file
from torch_build_farm.releases.facts import Fact, Facts
from torch_build_farm.releases.listing import Listing, builds_of_minor
from torch_build_farm.releases.table_files import added_folder
from torch_build_farm.releases.variant_file import Edit
from torch_build_farm.wheels.platforms import machine_of_wheel


@dataclass(frozen=True, kw_only=True)
class AddOptions(CommonOptions):
    """Options of `add`; those of the build count with --build only."""

    minors: tuple[str, ...]
    platform: tuple[str, ...]
    index: str
    latest: bool
    pre: bool
    dry_run: bool
    build: bool
    python: tuple[str, ...]
    engine: str
    base_image: str | None
    jobs: int | None
    smoke: Mode | None
    force: bool
    wait: bool


def _configure_parser(parser: Parser) -> None:
    add_common_arguments(parser)
    parser.add_argument("minors", nargs="*", metavar="MINOR", help="torch minors such as 2.16; 2.9:cu126 with --index")
    add_platforms_argument(parser, "x86_64")
    add_flavours_index_argument(parser)
    parser.add_argument("--latest", action="store_true", help="add the newest minor that the package index has")
    add_pre_argument(parser)
    parser.add_argument("--dry-run", action="store_true", help="show what would be written, and write nothing")
    parser.add_argument(
        "--build", action="store_true", help="then build, audit and smoke-test it; evidence in work/evidence.md"
    )
    add_list_argument(parser, "--python", "X.Y", "with --build: CPythons, or all")
    add_engine_arguments(parser)
    run.add_stage_arguments(parser)


@dataclass(frozen=True)
class VariantRow:
    """A variant that was written or brought up to date. `changes` is what broke in torch since the minor before."""

    torch: str
    platform: str
    file: Path
    diff: str
    kept: tuple[str, ...]
    facts: dict[str, Fact]
    changes: ChangesDocument | None


@dataclass(frozen=True, kw_only=True)
class AddAnswer(Answer):
    """The document of `add`. `notes` say which minors some of the platforms have no torch of."""

    variants: tuple[VariantRow, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class AddAndBuildAnswer(AddAnswer):
    """The document of `add --build`: `run` is that of the run, `evidence` the file for a pull request."""

    run: RunAnswer
    evidence: Path


@dataclass(frozen=True)
class _Addition:
    """A minor whose variant for a platform is written or brought up to date.

    `changes` is what broke since the newest release of the minor before; None if the audit does not know both.
    `previous` is the platform's variant of the minor before; None for the oldest.
    """

    facts: Facts
    edit: Edit
    changes: Changes | None
    previous: Variant | None

    def row(self) -> VariantRow:
        """The addition for the document."""
        return VariantRow(
            torch=str(self.facts.minor),
            platform=self.facts.platform.name,
            file=self.edit.path,
            diff=self.edit.diff,
            kept=tuple(self.edit.kept),
            facts=self.facts.for_documents(),
            changes=self.changes.document() if self.changes else None,
        )


def _add(context: Context, options: AddOptions) -> int:
    """`add`: write or update variants, learn their releases, and with --build build and prove them.

    Returns 0, or the exit code of the build.
    """
    package_index = PackageIndex.configured(options.index)
    project = context.load_project()
    platforms = parse_platforms(options.platform) or project.described_platforms
    minors = _minors(options, package_index, platforms)
    _check_flavours(minors, package_index, project)
    served, notes = _served(minors, package_index, platforms, pre=options.pre)
    for note in notes:
        context.say(note)

    # All facts are read before the first file is written: a failure leaves every file as it was.
    facts_read = []
    for minor, listing in served:
        minor_facts = facts.read(minor, listing, package_index, pre=options.pre)
        facts_read.append((_with_digest_of_image(minor_facts), listing))
    additions = []
    for minor_facts, listing in facts_read:
        minor, platform = minor_facts.minor, minor_facts.platform
        edit = _edit(context, minor_facts, listing, dry_run=options.dry_run)
        # The audit, of this command's build and of all later ones, has to know the minor's releases. It goes by those
        # of the default index: flavours are made of the same sources.
        if not options.dry_run and not minor.flavour:
            index.learn(context, _releases(minor_facts), package_index, options.python, platform)
        older = [variant for variant in project.on(platform).torch_minors.values() if variant.torch < minor]
        previous = max(older, key=lambda variant: variant.torch, default=None)
        addition = _Addition(minor_facts, edit, _changes(context, minor_facts), previous)
        _show_changes(context, addition)
        additions.append(addition)

    answer = AddAnswer(variants=tuple(addition.row() for addition in additions), notes=tuple(notes))
    code = 0
    if options.build and not options.dry_run:
        result = _build(context, options, additions)
        path = _write_evidence(context, additions, result)
        context.say(f"evidence: {path}")
        answer = AddAndBuildAnswer(
            variants=answer.variants, notes=answer.notes, run=RunAnswer.of(result), evidence=path
        )
        code = result.exit_code
    context.answer(answer)
    return code


def _served(
    minors: Sequence[Minor], package_index: PackageIndex, platforms: Sequence[Machine], *, pre: bool
) -> tuple[list[tuple[Minor, Listing]], list[str]]:
    """The minors with the listing of each platform that has a torch of them; a note on each one that has none.

    torch for one platform may come later than for another, which must not wait for it. Raises UnknownTorchError for a
    minor that no platform has, and PackageIndexError.
    """
    listings = {}
    for flavour in {minor.flavour for minor in minors}:
        listings[flavour] = Listing.read_each(package_index, flavour, machines=platforms)
    served, notes = [], []
    for minor in minors:
        refusals = []
        for listing in listings[minor.flavour]:
            try:
                listing.usable(minor, pre=pre)
            except UnknownTorchError as error:
                refusals.append(error)
                notes.append(f"left out for {listing.machine.words}: {error.what}")
            else:
                served.append((minor, listing))
        if len(refusals) == len(platforms):
            raise refusals[0]
    return served, notes


def _edit(context: Context, minor_facts: Facts, listing: Listing, *, dry_run: bool) -> Edit:
    """Write a variants file or bring it up to date, and print what changes; with `dry_run` nothing is written."""
    path = context.root / "variants" / file_name(minor_facts.minor, minor_facts.platform)
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    edit = variant_file.edit(path, minor_facts, listing, today)
    _show_edit(context, minor_facts, edit, dry_run=dry_run)
    if edit.diff and not dry_run:
        edit.write()
    return edit


def _with_digest_of_image(minor_facts: Facts) -> Facts:
    """The facts with the digest of the image for CUDA sources, where a Docker engine and its registry answer."""
    if "cuda-image" not in minor_facts.facts:
        return minor_facts
    with contextlib.suppress(EngineError):
        client = connect()
        name = str(minor_facts["cuda-image"].value)
        digest = registry_digest(client, name) if client else ""
        if digest:
            return minor_facts.with_fact("cuda-image", Fact(f"{name}@{digest}", "PyTorch's builder image, with nvcc"))
    return minor_facts


def _minors(options: AddOptions, package_index: PackageIndex, platforms: Sequence[Machine]) -> list[Minor]:
    """The minors to add, oldest first; with --latest the newest that the index has for one of the platforms.

    Raises UsageError if none is named, if a word is not a minor, and if a flavour is named without an index or a minor
    of the default index with one.
    """
    if options.latest == bool(options.minors):
        raise UsageError("add: which torch minor?", where="add", next_step="add 2.16, or add --latest")
    if options.latest:
        if options.index:
            raise UsageError(
                "--latest is of the default index", where="--index", next_step="add 2.16:cu126 --index URL"
            )
        return [facts.newest_usable_minor(Listing.read_each(package_index, machines=platforms), pre=options.pre)]
    try:
        minors = sorted({Minor.parse(text) for text in options.minors})
    except ValueError as error:
        raise UsageError(str(error), where="add", next_step="such as add 2.16") from None
    for minor in minors:
        if minor.flavour and not options.index:
            raise UsageError(
                f"add: which index has torch {minor}?",
                where="--index",
                next_step=f"add {minor} --index URL, with the URL that users of that torch give to pip",
            )
        if options.index and not minor.flavour:
            raise UsageError(
                f"add: which flavour of torch {minor}?",
                where="--index",
                next_step=f"`discover --index URL` lists them; without --index it is torch {minor} of uv's own index",
            )
    return minors


def _check_flavours(minors: Sequence[Minor], package_index: PackageIndex, project: Project) -> None:
    """Raise UsageError for a flavour that the wheel of the stable ABI serves, or whose index has other flavours too."""
    floor = project.settings.stable_abi
    flavoured = [minor for minor in minors if minor.flavour]
    files = package_index.files("torch") if flavoured else []
    for minor in flavoured:
        if floor and minor >= floor:
            raise UsageError(
                f"add: the wheel of stable-abi = {str(floor)!r} serves torch {minor} too",
                where=str(project.root / "pyproject.toml"),
                next_step="leave it out, or raise stable-abi",
            )
        others = builds_of_minor(files, minor) - {minor.flavour}
        if others:
            named = ", ".join(sorted(f"+{local}" if local else "without one" for local in others))
            raise UsageError(
                f"add: the index has torch {minor.number} of other flavours too ({named}): resolvers take any of them",
                where=package_index.first[0],
                next_step=f"name an index that has torch of {minor.flavour} alone",
            )


def _releases(minor_facts: Facts) -> tuple[str, ...]:
    """The minor's releases that can be built against, oldest first."""
    releases = minor_facts["releases"].value
    assert isinstance(releases, tuple)
    return releases


def _show_edit(context: Context, minor_facts: Facts, edit: Edit, *, dry_run: bool) -> None:
    """Print what changes in a variant's file, and which of its lines stay although the release differs."""
    torch, name = f"torch {minor_facts.on_platform}", f"variants/{edit.path.name}"
    if edit.diff:
        context.say(edit.diff)
        context.say(f"{torch}: {name} would be written" if dry_run else f"{torch}: wrote {name}")
    else:
        context.say(f"{torch}: {name} agrees with the package index")
    for line in edit.kept:
        context.say(f"  kept: {line}")


def _show_changes(context: Context, addition: _Addition) -> None:
    """Print what is new in the minor, and what broke since the one before."""
    if addition.previous:
        for line in evidence.against(addition.facts, addition.previous):
            context.say(f"  {line}")
    if addition.changes:
        context.say(addition.changes.markdown())


def _changes(context: Context, minor_facts: Facts) -> Changes | None:
    """What broke since the newest release of the minor before; None if the audit does not know both."""
    tables = AuditTables.load(added_folder(), minor_facts.platform)
    new = _releases(minor_facts)[0]
    older = []
    for release in tables.symbols.releases:
        if Minor(release.version.major, release.version.minor) < minor_facts.minor:
            older.append(release.name)
    if not older or new not in tables.releases:
        return None
    wheels = _last_wheels(context.load_project(), context.work, minor_facts.platform)
    return changes.between(tables, older[-1], new, wheels)


def _last_wheels(project: Project, work: Path, platform: Machine) -> list[Path]:
    """The wheels for a platform of the newest variant among those that this user's farm has built here."""
    paths_by_minor: dict[Minor, list[Path]] = {}
    jobs = records.by_wheel(work)
    for file in inventory.built(project, work / "dist"):
        if file.path and machine_of_wheel(file.path.name) == platform and sha256(file.path) in jobs:
            paths_by_minor.setdefault(file.minor, []).append(file.path)
    if not paths_by_minor:
        return []
    return paths_by_minor[max(paths_by_minor)]


def _build(context: Context, options: AddOptions, additions: Sequence[_Addition]) -> RunResult:
    """Build, audit and smoke-test the additions, by the variants as they are now."""
    smoke = options.smoke or "full"
    stage_options = StageOptions(
        torch=tuple(dict.fromkeys(str(addition.facts.minor) for addition in additions)),
        python=options.python,
        platform=tuple(dict.fromkeys(addition.facts.platform.name for addition in additions)),
        only=(),
        engine=options.engine,
        base_image=options.base_image,
        jobs=options.jobs,
        smoke=smoke,
        force=options.force,
        wait=options.wait,
    )
    return run.run_stages(context, stage_options, stages_with(smoke), smoke)


def _write_evidence(context: Context, additions: Sequence[_Addition], result: RunResult) -> Path:
    """Write work/evidence.md, what there is to know about the variants and their builds, for a pull request."""
    sections = []
    for addition in additions:
        sections.append(evidence.of_variant(addition.facts, addition.edit, addition.changes, addition.previous))
    sections.append(evidence.of_build(result.jobs))
    path = context.work / "evidence.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_text(path, "\n".join(sections))
    return path


COMMANDS = {"add": Command(AddOptions, _configure_parser, _add, AddAndBuildAnswer | AddAnswer)}
