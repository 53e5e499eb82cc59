"""published.json, beside the project's pyproject.toml: the files that this project published, with their SHA-256.

A name on a package index proves nothing about its owner. What the farm requires of an index, or takes for its own, is
in this list with the same SHA-256, or was built here. `publish` adds each file once the index has its bytes; adopting a
name adds the files that are there. The list is kept with the project, under version control: one file a line, sorted,
so that two branches merge.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from packaging.utils import canonicalize_name
from pydantic import AfterValidator, ConfigDict, FailFast, Field, ValidationError

from torch_build_farm.core import foreign_files
from torch_build_farm.core.errors import ConfigError
from torch_build_farm.core.files import replace_text
from torch_build_farm.project.settings import PUBLISHED_LIST
from torch_build_farm.project.tables import adapter

NAME = PUBLISHED_LIST
_STRICT = ConfigDict(extra="forbid", use_attribute_docstrings=True)
_LARGEST = 16_000_000  # bytes: some 80,000 files
_HINT = (
    "restore it from version control; after a merge keep the lines of both sides, with a comma after all but the last"
)


@dataclass(frozen=True, order=True)
class PublishedFile:
    """A file of this project on a package index."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    name: Annotated[str, AfterValidator(canonicalize_name)]
    """The distribution's normalized name (PEP 503)."""

    file: Annotated[str, Field(max_length=255, pattern=r"^[^/\x00-\x1f]+$")]
    """The file's name."""

    index: Annotated[str, Field(min_length=1)]
    """Where: pypi, testpypi, or the URL for uploads."""

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """Of the file's content, in hexadecimal."""

    adopted: bool = False
    """Whether the file was there before this project published with the farm: `adopt` recorded it."""


@dataclass(frozen=True)
class PublishedDocument:
    """published.json: the files that this project published, which `publish` writes."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    schema: Literal[1]
    """The version of this form."""

    files: Annotated[tuple[PublishedFile, ...], FailFast()]
    """Sorted by name, file and index."""


@dataclass(frozen=True)
class PublishedList:
    """What is in published.json."""

    files: frozenset[PublishedFile] = frozenset()

    def has(self, name: str, file: str, sha256: str) -> bool:
        """Whether this project published a file of that distribution, name and SHA-256, on whichever index."""
        # The index does not count: the content is this project's wherever it lies, as on a mirror.
        return sha256 in self._digests.get((name, file), ())

    def knows(self, name: str, file: str) -> bool:
        """Whether this project published a file of that distribution and name."""
        return (name, file) in self._digests

    @cached_property
    def _digests(self) -> Mapping[tuple[str, str], set[str]]:
        digests: dict[tuple[str, str], set[str]] = {}
        for entry in self.files:
            digests.setdefault((entry.name, entry.file), set()).add(entry.sha256)
        return digests

    def of(self, index: str) -> Mapping[str, str]:
        """The SHA-256 of each file that was published on `index`, by the file's name."""
        return {entry.file: entry.sha256 for entry in self.files if entry.index == index}

    def with_files(self, files: Iterable[PublishedFile]) -> PublishedList:
        """The list with further files; what it has already stays as it is.

        A file that an index has with other bytes than before takes the earlier line's place: an index of one's own was
        made anew, since no other changes a file.
        """
        entries = {(entry.index, entry.file): entry for entry in self.files}
        for file in files:
            key = (file.index, file.file)
            if key not in entries or entries[key].sha256 != file.sha256:
                entries[key] = file
        return PublishedList(frozenset(entries.values()))

    def text(self) -> str:
        """The content of published.json."""
        lines = []
        for entry in sorted(self.files):
            fields: dict[str, Any] = {
                "name": entry.name,
                "file": entry.file,
                "index": entry.index,
                "sha256": entry.sha256,
            }
            if entry.adopted:
                fields["adopted"] = True
            lines.append("    " + json.dumps(fields))
        files = "[\n" + ",\n".join(lines) + "\n  ]" if lines else "[]"
        return f'{{\n  "schema": 1,\n  "files": {files}\n}}\n'


def read(folder: Path) -> PublishedList:
    """The list of the project in `folder`; an empty one where it has none.

    Raises ConfigError for a file that is not such a list, or that has two contents for one file of an index.
    """
    path = folder / NAME
    try:
        content = foreign_files.content(path, _LARGEST)
    except FileNotFoundError:
        return PublishedList()
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", where=str(path), next_step=_HINT) from None
    try:
        document = adapter(PublishedDocument).validate_json(content)
    except (ValidationError, RecursionError) as error:
        raise ConfigError(
            f"not a list of published files: {_reason(error)}", where=str(path), next_step=_HINT
        ) from None
    _check_contradictions(document, path)
    return PublishedList(frozenset(document.files))


def _reason(error: ValidationError | RecursionError) -> str:
    """The first problem, with its place."""
    if isinstance(error, RecursionError):
        return "nested too deeply"
    problem = error.errors()[0]
    place = ".".join(map(str, problem["loc"]))
    return f"{place}: {problem['msg']}" if place else problem["msg"]


def _check_contradictions(document: PublishedDocument, path: Path) -> None:
    """Raise ConfigError where a file of an index has two contents: no index changes a file."""
    digests: dict[tuple[str, str], str] = {}
    for entry in document.files:
        first = digests.setdefault((entry.index, entry.file), entry.sha256)
        if first != entry.sha256:
            raise ConfigError(
                f"{entry.file} on {entry.index} has two SHA-256, {first} and {entry.sha256}",
                where=str(path),
                next_step="find out which one the index has, and remove the line of the other",
            )


def write(published: PublishedList, *folders: Path) -> None:
    """Write the list into each folder, atomically. Raises OSError."""
    text = published.text()
    for folder in folders:
        replace_text(folder / NAME, text)
