"""`add`: write a torch minor's variant from the release itself."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch_build_farm.audit import changes
from torch_build_farm.audit.changes import Changes
from torch_build_farm.audit.tables import AuditTables
from torch_build_farm.cli import evidence, run
from torch_build_farm.cli import index as indexing
from torch_build_farm.cli.context import Context
from torch_build_farm.core.errors import UsageError
from torch_build_farm.core.package_index import PackageIndex
from torch_build_farm.core.versions import Minor
from torch_build_farm.pipeline.stage import Mode
from torch_build_farm.project.settings import Project
from torch_build_farm.publish import inventory
from torch_build_farm.releases import facts, variant_file
from torch_build_farm.releases.facts import Facts
from torch_build_farm.releases.known import added_folder
from torch_build_farm.releases.listing import Listing
from torch_build_farm.releases.variant_file import Edit


def add(context: Context) -> int:
    """`add`: write or bring up to date variants, learn their releases, and with --build build and prove them."""
    index = PackageIndex.configured()
    listing = Listing.read(index)
    minors = _minors(context, listing)
    texts, document = [], []
    served = context.project.variants
    every = [
        facts.read(minor, listing, index, pre=context.options.pre) for minor in minors
    ]  # all, or nothing is written
    for minor, read in zip(minors, every, strict=True):
        edit = variant_file.edit(
            context.root / "variants" / f"{minor.tag}.toml",
            read,
            listing,
            datetime.datetime.now(datetime.UTC).date().isoformat(),
        )
        _show(context, minor, edit)
        if not context.options.dry_run:
            if edit.diff:
                edit.write()
            indexing.learn(context, [str(one) for one in _releases(read)], index)
        told = _changes(context, read)
        before = max((one for one in served.values() if one.torch < minor), key=lambda one: one.torch, default=None)
        texts.append(evidence.of_variant(read, edit, told, before))
        for line in evidence.against(read, before) if before else ():
            context.say(f"  {line}")
        if told:
            context.say(told.markdown())
        document.append(_as_json(read, edit, told))
    return _finish(context, minors, texts, document)


def _finish(context: Context, minors: Sequence[Minor], texts: list[str], document: list[dict[str, Any]]) -> int:
    """Build, where that is asked for, and write the evidence."""
    answer: dict[str, Any] = {"schema": 1, "variants": document}
    code = 0
    if context.options.build and not context.options.dry_run:
        context.options.torch, context.options.only = [str(minor) for minor in minors], None
        smoke: Mode = context.options.smoke or "full"
        result = run.carry_out(context, run.stages_with(smoke), smoke)
        texts.append(evidence.of_build(result.jobs))
        answer["run"], code = result.as_json(), result.exit_code
        path = context.work / "evidence.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(texts), "utf-8")
        answer["evidence"] = str(path)
        context.say(f"evidence: {path}")
    if context.options.json:
        context.answer(answer)
    return code


def _releases(read: Facts) -> tuple[str, ...]:
    value = read["releases"].value
    assert isinstance(value, tuple)
    return value


def _minors(context: Context, listing: Listing) -> list[Minor]:
    """Raises UsageError for a call that names none, or no minor."""
    options = context.options
    if options.latest == bool(options.minors):
        raise UsageError("add: which torch minor?", where="add", next_step="add 2.16, or add --latest")
    if options.latest:
        return [facts.newest(listing, pre=options.pre)]
    try:
        return sorted({Minor.parse(text) for text in options.minors})
    except ValueError as error:
        raise UsageError(str(error), where="add", next_step="such as add 2.16") from None


def _show(context: Context, minor: Minor, edit: Edit) -> None:
    name = f"variants/{edit.path.name}"
    if edit.diff:
        context.say(edit.diff)
        context.say(
            f"torch {minor}: {name} would be written" if context.options.dry_run else f"torch {minor}: wrote {name}"
        )
    else:
        context.say(f"torch {minor}: {name} is as the index has it")
    for line in edit.kept:
        context.say(f"  kept: {line}")


def _changes(context: Context, read: Facts) -> Changes | None:
    """What broke since the newest release of the minor before; None where the audit does not know both."""
    known = AuditTables.load(added_folder())
    new = _releases(read)[0]
    before = [one for one in known.index.releases if Minor(one.version.major, one.version.minor) < read.minor]
    if not before or new not in known.releases:
        return None
    return changes.between(known, before[-1].name, new, _last_wheels(context.project, context.work))


def _last_wheels(project: Project, work: Path) -> list[Path]:
    """The wheels of the newest variant among those that are built here."""
    built = [file for file in inventory.built(project, work / "dist") if file.path]
    if not built:
        return []
    last = max(file.minor for file in built)
    return [file.path for file in built if file.path and file.minor == last]


def _as_json(read: Facts, edit: Edit, told: Changes | None) -> dict[str, Any]:
    values = {
        key: {"value": list(fact.value) if isinstance(fact.value, tuple) else fact.value, "source": fact.source}
        for key, fact in read.facts.items()
    }
    return {
        "torch": str(read.minor),
        "file": str(edit.path),
        "diff": edit.diff,
        "kept": list(edit.kept),
        "facts": values,
        "changes": told.as_json() if told else None,
    }
