"""What `discover` and `add` do."""

from __future__ import annotations

import datetime
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from torch_build_farm.audit import changes
from torch_build_farm.audit.changes import Changes
from torch_build_farm.audit.tables import AuditTables
from torch_build_farm.cli import evidence, run
from torch_build_farm.cli import index as indexing
from torch_build_farm.cli.context import Desk
from torch_build_farm.core.errors import FarmError, UsageError
from torch_build_farm.core.package_index import PackageIndex
from torch_build_farm.core.versions import Minor
from torch_build_farm.pipeline.stage import Mode
from torch_build_farm.pipeline.stages.order import WHEEL
from torch_build_farm.pipeline.stages.smoke import SMOKE
from torch_build_farm.project.settings import Project
from torch_build_farm.publish import inventory
from torch_build_farm.releases import discovery, facts, variant_file
from torch_build_farm.releases.discovery import NEWS, Found, Status
from torch_build_farm.releases.facts import Facts
from torch_build_farm.releases.known import Knowledge, added_folder
from torch_build_farm.releases.listing import Listing
from torch_build_farm.releases.variant_file import Edit

NEWS_CODE = 28  # of `discover`: there is something to do
_STYLE = {Status.SERVED: "green", Status.MISSING: "bold red", Status.CHANGED: "yellow", Status.YANKED: "bold red"}


def discover(desk: Desk) -> int:
    """`discover`: every minor of the index beside its variant. The exit code is NEWS_CODE where something is to do."""
    start = time.monotonic()
    index = PackageIndex.configured()
    listing = Listing.read(index)
    known = {one.name: one.files for one in Knowledge.load(added_folder()).index.releases}
    found = [
        _with_facts(one, listing, index, pre=desk.options.pre)
        for one in discovery.compare(listing, desk.project.variants, known, pre=desk.options.pre)
    ]
    news = [one for one in found if one.status in NEWS]
    seconds, size = time.monotonic() - start, index.traffic.fetched
    if desk.options.json:
        rows = [one.as_json() for one in found]
        desk.answer({"schema": 1, "minors": rows, "seconds": round(seconds, 2), "bytes": size})
    _table(desk, found)
    todo = [str(one.minor) for one in news]
    desk.say(f"\nnext: python build_farm.py add {' '.join(todo)}" if todo else "\nnothing to do")
    desk.say(f"{size / 1e6:.1f} MB in {seconds:.1f} s")
    return NEWS_CODE if news else 0


def _with_facts(found: Found, listing: Listing, index: PackageIndex, *, pre: bool) -> Found:
    if found.status is not Status.MISSING:
        return found
    try:
        read = facts.read(found.minor, listing, index, pre=pre, sizes=False)
    except FarmError as error:
        return replace(found, news=(*found.news, error.what))
    return Found(found.minor, found.status, found.releases, found.cpython, str(read["cuda"].value), found.news, read)


def _table(desk: Desk, found: Sequence[Found]) -> None:
    table = Table(box=None, pad_edge=False)
    for column in ("torch", "", "releases", "CUDA", "CPython", "news"):
        table.add_column(column, overflow="fold")
    for one in found:
        pythons = " ".join(tag.removeprefix("cp") for tag in one.cpython)
        state = Text(str(one.status), _STYLE.get(one.status, "dim"))
        table.add_row(
            str(one.minor), state, " ".join(one.releases), one.cuda, pythons, Text("; ".join(one.news))
        )  # fmt: skip
    desk.console.print(table)


def add(desk: Desk) -> int:
    """`add`: write or bring up to date variants, learn their releases, and with --build build and prove them."""
    index = PackageIndex.configured()
    listing = Listing.read(index)
    minors = _minors(desk, listing)
    texts, document = [], []
    served = desk.project.variants
    every = [facts.read(minor, listing, index, pre=desk.options.pre) for minor in minors]  # all, or nothing is written
    for minor, read in zip(minors, every, strict=True):
        edit = variant_file.edit(
            desk.root / "variants" / f"{minor.tag}.toml",
            read,
            listing,
            datetime.datetime.now(datetime.UTC).date().isoformat(),
        )
        _show(desk, minor, edit)
        if not desk.options.dry_run:
            if edit.diff:
                edit.write()
            indexing.learn(desk, [str(one) for one in _releases(read)], index)
        told = _changes(desk, read)
        before = max((one for one in served.values() if one.torch < minor), key=lambda one: one.torch, default=None)
        texts.append(evidence.of_variant(read, edit, told, before))
        for line in evidence.against(read, before) if before else ():
            desk.say(f"  {line}")
        if told:
            desk.say(told.markdown())
        document.append(_as_json(read, edit, told))
    return _finish(desk, minors, texts, document)


def _finish(desk: Desk, minors: Sequence[Minor], texts: list[str], document: list[dict[str, Any]]) -> int:
    """Build, where that is asked for, and write the evidence."""
    answer: dict[str, Any] = {"schema": 1, "variants": document}
    code = 0
    if desk.options.build and not desk.options.dry_run:
        desk.options.torch, desk.options.only = [str(minor) for minor in minors], None
        smoke: Mode = desk.options.smoke or "full"
        outcome = run.carry_out(desk, [*WHEEL, *([SMOKE] if smoke != "none" else [])], smoke)
        texts.append(evidence.of_build(outcome.results))
        answer["run"], code = outcome.document, outcome.code
        path = desk.work / "evidence.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(texts), "utf-8")
        answer["evidence"] = str(path)
        desk.say(f"evidence: {path}")
    if desk.options.json:
        desk.answer(answer)
    return code


def _releases(read: Facts) -> tuple[str, ...]:
    value = read["releases"].value
    assert isinstance(value, tuple)
    return value


def _minors(desk: Desk, listing: Listing) -> list[Minor]:
    """Raises UsageError for a call that names none, or no minor."""
    options = desk.options
    if options.latest == bool(options.minors):
        raise UsageError("add: which torch minor?", where="add", next_step="add 2.16, or add --latest")
    if options.latest:
        return [facts.newest(listing, pre=options.pre)]
    try:
        return sorted({Minor.parse(text) for text in options.minors})
    except ValueError as error:
        raise UsageError(str(error), where="add", next_step="such as add 2.16") from None


def _show(desk: Desk, minor: Minor, edit: Edit) -> None:
    name = f"variants/{edit.path.name}"
    if edit.diff:
        desk.say(edit.diff)
        desk.say(f"torch {minor}: {name} would be written" if desk.options.dry_run else f"torch {minor}: wrote {name}")
    else:
        desk.say(f"torch {minor}: {name} is as the index has it")
    for line in edit.kept:
        desk.say(f"  kept: {line}")


def _changes(desk: Desk, read: Facts) -> Changes | None:
    """What broke since the newest release of the minor before; None where the audit does not know both."""
    known = AuditTables.load(added_folder())
    new = _releases(read)[0]
    before = [one for one in known.index.releases if Minor(one.version.major, one.version.minor) < read.minor]
    if not before or new not in known.releases:
        return None
    return changes.between(known, before[-1].name, new, _last_wheels(desk.project, desk.work))


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
