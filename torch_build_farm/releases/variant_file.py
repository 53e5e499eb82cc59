"""variants/torchNN.toml, written from facts. In a file that exists already, what people wrote is kept."""

from __future__ import annotations

import difflib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomlkit
from tomlkit import TOMLDocument

from torch_build_farm.core import toml
from torch_build_farm.core.errors import ConfigError
from torch_build_farm.core.files import replace_text
from torch_build_farm.project.variant import read_variants
from torch_build_farm.releases.facts import Fact, Facts, tags_of
from torch_build_farm.releases.listing import Listing, Release


@dataclass(frozen=True)
class Edit:
    """A variant's file as it is (empty if it does not exist), and as it is to be.

    `kept` has a line for each value of the file that differs from the index's and stays.
    """

    path: Path
    before: str
    after: str
    kept: tuple[str, ...] = ()

    @property
    def diff(self) -> str:
        """A unified diff; empty if nothing changes."""
        name = f"variants/{self.path.name}"
        lines = difflib.unified_diff(
            self.before.splitlines(keepends=True),
            self.after.splitlines(keepends=True),
            name if self.before else "nothing",
            name,
        )
        return "".join(lines)

    def write(self) -> None:
        """Write the file, whole or not at all. Raises ConfigError if it cannot be written."""
        try:
            replace_text(self.path.resolve(), self.after)
        except OSError as error:
            raise ConfigError(
                f"{self.path} cannot be written: {error.strerror}", next_step="make its folder writable"
            ) from None


def edit(path: Path, facts: Facts, listing: Listing, date: str) -> Edit:
    """What to write into a minor's file; `date` is the day for the comment at the top of a new one.

    Raises ConfigError for a file that is not TOML, or that would not be a variant afterwards.
    """
    kept: Sequence[str] = ()
    before = ""
    if path.is_file():
        before = path.read_bytes().decode()  # line ends as they are
    if before:
        after, kept = _updated(path, before, facts, listing)
    else:
        after = _new(facts, date)
    _check(path, after)
    return Edit(path, before, after, tuple(kept))


def _new(facts: Facts, date: str) -> str:
    """The text of a file for a minor that has none yet."""
    document = tomlkit.document()
    place = f"{facts.platform.words} Linux"
    document.add(
        tomlkit.comment(f"torch {facts.minor} on {place}, as the package index had it on {date}: {facts.wheel}")
    )
    for key, fact in facts.facts.items():
        _append(document, key, fact)
    return tomlkit.dumps(document)


def _toml_value(fact: Fact) -> Any:
    """The fact's value as TOML has it."""
    return list(fact.value) if isinstance(fact.value, tuple) else fact.value


def _append(document: TOMLDocument, key: str, fact: Fact) -> None:
    """Add a key with its source as a comment."""
    item = tomlkit.item(_toml_value(fact))
    if fact.source:
        item.comment(fact.source)
    document[key] = item


def _updated(path: Path, text: str, facts: Facts, listing: Listing) -> tuple[str, list[str]]:
    """The text with what the index alone decides, releases and new CPythons, brought up to date.

    Every other value that the file has stays. The second result has a line for each of these that differs.
    """
    try:
        document = toml.editable(text)
    except toml.TomlError as error:
        raise ConfigError(f"{path}: {error}", next_step="correct it, or remove it to have it written anew") from None
    kept = []
    old: dict[str, Any] = document.unwrap()
    for key, fact in facts.facts.items():
        value = _toml_value(fact)
        if key not in old:
            _append(document, key, fact)
        elif key == "releases":
            _replace(document, key, value)
        elif key == "cpython":
            old_releases = list(map(str, old.get("releases", [])))
            tags = _merged_tags(list(old[key]), old_releases, listing.by_minor.get(facts.minor, ()))
            _replace(document, key, tags)
        elif key == "cuda-image" and str(value).startswith(f"{old[key]}@"):
            _replace(document, key, value)  # the same image, and a registry has said its digest
        elif key == "release" and old[key] not in facts["releases"].value:  # type: ignore[operator]
            _replace(document, key, value)  # the release built against is yanked or gone
        elif old[key] != value and not _names_the_same_image(key, old[key], value):
            kept.append(f"{key} stays {old[key]!r}; the index has {value!r} ({fact.source})")
    return tomlkit.dumps(document), kept


def _names_the_same_image(key: str, old: object, value: object) -> bool:
    """Whether both are one image's name, of which the file has a digest too and no registry was at hand."""
    return key == "cuda-image" and str(old).startswith(f"{value}@")


def _replace(document: TOMLDocument, key: str, value: Any) -> None:
    """Put a value in the place of the old one, before the same comment; an equal value stays as it is written."""
    if document[key].unwrap() != value:
        old_trivia = document[key].trivia
        item = tomlkit.item(value)
        item.trivia.comment, item.trivia.comment_ws = old_trivia.comment, old_trivia.comment_ws
        document[key] = item


def _merged_tags(old_tags: Sequence[str], old_releases: Sequence[str], releases: Sequence[Release]) -> list[str]:
    """The file's CPythons, plus those that only new releases support, minus those that no release supports any more.

    `old_releases` are those that the file names. If no CPython would be left, all that a release supports.
    """
    usable = [release for release in releases if release.usable]
    supported_tags = tags_of(usable)
    considered_tags = tags_of(release for release in usable if release.name in old_releases)
    merged = []
    for tag in supported_tags:
        # A tag that one of the file's releases supports, and the file does not have, was taken out by hand.
        is_new = bool(old_releases) and tag not in considered_tags
        if tag in old_tags or is_new:
            merged.append(tag)
    return merged or list(supported_tags)


def _check(path: Path, text: str) -> None:
    """Raise ConfigError, which names the path, if the farm would not read the text as a variant."""
    # In a folder of its own: the file is checked before it replaces another, and without its neighbours.
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / path.name).write_text(text, "utf-8")
        try:
            read_variants([Path(folder)])
        except ConfigError as error:
            raise ConfigError(error.what.replace(folder, str(path.parent)), next_step=error.next_step) from None
