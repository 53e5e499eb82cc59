"""variants/torchNN.toml written from facts; in a file that is there already, what people wrote is kept."""

from __future__ import annotations

import difflib
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomlkit
from tomlkit import TOMLDocument

from torch_build_farm.core.errors import ConfigError
from torch_build_farm.core.files import replace_text
from torch_build_farm.core.versions import CPython
from torch_build_farm.project.variant import read_variants
from torch_build_farm.releases.facts import Fact, Facts, tags_of
from torch_build_farm.releases.listing import Listing, Release


@dataclass(frozen=True)
class Edit:
    """A variants file as it is (empty: not there) and as it shall be; `kept` says of each value that differs why."""

    path: Path
    before: str
    after: str
    kept: tuple[str, ...] = ()

    @property
    def diff(self) -> str:
        """Unified; empty where nothing changes."""
        name = f"variants/{self.path.name}"
        lines = difflib.unified_diff(
            self.before.splitlines(keepends=True),
            self.after.splitlines(keepends=True),
            name if self.before else "nothing",
            name,
        )
        return "".join(lines)

    def write(self) -> None:
        """Write the file, whole or not at all."""
        try:
            replace_text(self.path.resolve(), self.after)
        except OSError as error:
            raise ConfigError(
                f"{self.path} cannot be written: {error.strerror}", next_step="make its folder writable"
            ) from None


def edit(path: Path, facts: Facts, listing: Listing, date: str) -> Edit:
    """The file for a minor. Raises ConfigError for one that is there and is no TOML, or that this would leave wrong."""
    before = path.read_bytes().decode() if path.is_file() else ""  # line ends as they are
    kept: Sequence[str] = ()
    if before:
        after, kept = _updated(path, before, facts, listing)
    else:
        after = _new(facts, date)
    _check(path, after)
    return Edit(path, before, after, tuple(kept))


def _new(facts: Facts, date: str) -> str:
    document = tomlkit.document()
    document.add(
        tomlkit.comment(f"torch {facts.minor} on x86-64 Linux, as the package index had it on {date}: {facts.wheel}")
    )
    for key, fact in facts.facts.items():
        _put(document, key, fact)
    return tomlkit.dumps(document)


def _put(document: TOMLDocument, key: str, fact: Fact) -> None:
    item = tomlkit.item(list(fact.value) if isinstance(fact.value, tuple) else fact.value)
    if fact.source:
        item.comment(fact.source)
    document[key] = item


def _updated(path: Path, text: str, facts: Facts, listing: Listing) -> tuple[str, list[str]]:
    """What the index alone decides follows it: releases, new CPythons. Everything else is the file's, once there."""
    try:
        document = tomlkit.parse(text)
    except ValueError as error:  # tomlkit's errors are ValueErrors
        raise ConfigError(f"{path}: {error}", next_step="correct it, or remove it to have it written anew") from None
    kept = []
    mine: Mapping[str, Any] = document.unwrap()
    known = [str(one) for one in mine.get("releases", [])]
    for key, fact in facts.facts.items():
        value = list(fact.value) if isinstance(fact.value, tuple) else fact.value
        if key not in mine:
            _put(document, key, fact)
        elif key == "releases":
            _replace(document, key, value)
        elif key == "cpython":
            _replace(document, key, _pythons(list(mine[key]), known, listing.by_minor.get(facts.minor, ())))
        elif key == "release" and mine[key] not in facts["releases"].value:  # type: ignore[operator]
            _replace(document, key, value)
        elif mine[key] != value:
            kept.append(f"{key} stays {mine[key]!r}; the index says {value!r} ({fact.source})")
    return tomlkit.dumps(document), kept


def _replace(document: TOMLDocument, key: str, value: Any) -> None:
    """Another value in the same place, before the same comment; an equal one is left as it is written."""
    if document[key].unwrap() != value:
        trivia = document[key].trivia
        item = tomlkit.item(value)
        item.trivia.comment, item.trivia.comment_ws = trivia.comment, trivia.comment_ws
        document[key] = item


def _pythons(mine: list[str], known: Sequence[str], releases: Sequence[Release]) -> list[str]:
    """The file's CPythons, and those that only releases have which it did not know; less those that none has any more.

    A tag that a known release has and the file has not was taken out by hand.
    """
    usable = [one for one in releases if one.usable]
    before = tags_of(one for one in usable if one.name in known)
    now = tags_of(usable)
    found = {tag for tag in mine if tag in now} | {tag for tag in now if tag not in before and known}
    return sorted(found or set(now), key=CPython.parse)


def _check(path: Path, text: str) -> None:
    """Whether the loader takes the file; it names the place where it would lie."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / path.name).write_text(text, "utf-8")
        try:
            read_variants([Path(folder)])
        except ConfigError as error:
            raise ConfigError(error.what.replace(folder, str(path.parent)), next_step=error.next_step) from None
