"""Why a verdict is not OK, in sentences that fit a line."""

from __future__ import annotations

from collections.abc import Sequence

from torch_build_farm.audit.demangle import demangled, prepare
from torch_build_farm.audit.short_names import shortened_list
from torch_build_farm.audit.verdict import Finding, Verdict
from torch_build_farm.releases.symbol_table import CXX_LIBRARY

_ROOM = 200  # characters of a sentence in an error's message
_NAMES = 5  # shown of each list; --verbose and --json have all


def reasons(finding: Finding, room: int = _ROOM) -> list[str]:
    """Why a verdict is not OK, one sentence each, with as many names as fit `room` characters, five at most."""
    return _sentences(finding, room, _NAMES)


def all_reasons(finding: Finding) -> list[str]:
    """As `reasons`, with every name in full."""
    return _sentences(finding, None, None)


def prepare_names(findings: Sequence[Finding], most: int | None = _NAMES) -> None:
    """Demangle at once the first names of these findings, or all of them: a process for each would take long."""
    names: list[str] = []
    for finding in findings:
        for mangled in (finding.missing, finding.unknown, finding.newer_cxx):
            names += mangled[:most]
    prepare(names)


def _sentences(finding: Finding, room: int | None, most: int | None) -> list[str]:
    """The sentences, in `room` characters each and with `most` names of each list; without limits for None."""
    prepare_names([finding], most)
    broken = finding.verdict is Verdict.BROKEN
    parts = [
        ("missing", finding.missing),
        ("neither the wheel nor this torch brings" if broken else "the system has to bring", finding.libraries),
        (f"the system's {CXX_LIBRARY} has to be newer than manylinux promises, for", finding.newer_cxx),
        ("different layout of", finding.layout),
        ("unknown", finding.unknown),
    ]
    sentences = []
    for words, names in parts:
        if names:
            shown = [demangled(name) for name in names[:most]]
            if room is None:
                sentences.append(f"{words} {', '.join(shown)}")
            else:
                sentences.append(f"{words} {shortened_list(shown, len(names), room - len(words) - 1)}")
    if finding.note:
        sentences.append(finding.note)
    return sentences
