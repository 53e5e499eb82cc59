"""The one place that reads what others write in METADATA: within bounds, and with a ValueError for what exceeds them.

packaging and email read any length. A version of a million digits, 100,000 requirements or markers within markers cost
seconds each, and some of them end in a RecursionError.
"""

from __future__ import annotations

from email.message import Message
from email.parser import HeaderParser

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import InvalidName, canonicalize_name
from packaging.version import InvalidVersion, Version

MOST_METADATA = 4 << 20  # bytes; torch's has 30 kB, the longest description on the public index 1 MB
_MOST_FIELDS = 20_000  # lines of METADATA before the description; the most extras of a real one take 2,000
_LONGEST_REQUIREMENT = 4096  # characters; 30 extras and 20 markers take 1,000
_LONGEST_VERSION = 256  # characters
_LONGEST_NAME = 128  # characters; with a version and tags behind it, it is part of a file's name, of 255 at most


def parse_metadata(text: str) -> Message:
    """The fields of METADATA (core metadata specification). Raises ValueError for more than a distribution can need."""
    if len(text) > MOST_METADATA:
        raise ValueError(f"METADATA has {len(text)} characters, more than {MOST_METADATA}")
    fields, _, _ = text.replace("\r\n", "\n").partition("\n\n")
    if fields.count("\n") > _MOST_FIELDS:
        raise ValueError(f"METADATA has more than {_MOST_FIELDS} lines of fields")
    return HeaderParser().parsestr(text)


def read_requirement(text: str) -> Requirement:
    """A requirement (PEP 508). Raises InvalidRequirement, a ValueError."""
    if len(text) > _LONGEST_REQUIREMENT:
        raise InvalidRequirement(f"a requirement has {len(text)} characters: {text[:60]}...")
    try:
        return Requirement(text)
    except RecursionError:
        raise InvalidRequirement(f"the markers are nested too deep: {text[:60]}...") from None


def check_name(name: str) -> None:
    """Raise InvalidName, a ValueError, for what is no distribution's name (PEP 508), or too long for a file's."""
    if len(name) > _LONGEST_NAME:
        raise InvalidName(f"a name has {len(name)} characters: {name[:60]}...")
    canonicalize_name(name, validate=True)


def read_version(text: str) -> Version:
    """A version (PEP 440). Raises InvalidVersion, a ValueError."""
    if len(text) > _LONGEST_VERSION:
        raise InvalidVersion(f"a version has {len(text)} characters: {text[:60]}...")
    return Version(text)


def read_specifiers(text: str) -> SpecifierSet:
    """Version specifiers (PEP 440). Raises InvalidSpecifier, a ValueError."""
    if len(text) > _LONGEST_REQUIREMENT:
        raise InvalidSpecifier(f"version specifiers have {len(text)} characters: {text[:60]}...")
    return SpecifierSet(text)
