"""What people read about one wheel: its claim, what is wrong with its libraries, and what the system has to bring.

A wheel may hold two hundred libraries that fail for the same reason with ten releases. So libraries with the same
reasons share their lines, a reason is said where it lies and not again for who needs that library, successive releases
share a line, and torch's findings come first.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Sequence
from pathlib import PurePosixPath

from torch_build_farm.audit.reasons import all_reasons, prepare_names, reasons
from torch_build_farm.audit.short_names import shortened_list
from torch_build_farm.audit.verdict import Finding, LibraryKind, Verdict
from torch_build_farm.audit.wheel_report import LibraryReport, WheelReport, meant_for, wrong_machines
from torch_build_farm.releases.symbol_table import CXX_LIBRARY

_WIDTH = 160
_AND_MORE = len(" and 100 more")
_ORDER_OF_KINDS = (LibraryKind.TORCH, LibraryKind.STABLE_ABI, LibraryKind.NEUTRAL)
_BAD = (Verdict.BROKEN, Verdict.UNKNOWN)


def span(releases: Sequence[str]) -> str:
    """Successive releases in words: "2.8.0, 2.9.0" or "2.8.0 to 2.10.0"."""
    if len(releases) < 3:
        return ", ".join(releases)
    return f"{releases[0]} to {releases[-1]}"


def lines(report: WheelReport, width: int = _WIDTH, *, verbose: bool = False) -> list[str]:
    """The lines about a wheel, indented by two spaces for each level.

    Lists of names are as long as fits `width` columns. `verbose` lines have every library and every name, of any
    length.
    """
    text = [_claim(report)]
    if report.libraries and report.fewer_variants:
        text.append(f"uses {report.fewer_variants}")
    if report.left_out:
        text.append(f"torch {span(report.left_out)}: no build for this wheel's CPython")
    if report.other_machines:
        text.append(wrong_machines(report.other_machines, report.platform))
    text += _without_library(report)
    if report.floors:
        text.append(f"needs {', '.join(report.floors)}")
    text += needs_of_others(report)
    for internals_id, releases in report.pybind11.items():
        text.append(
            f"pybind11: {internals_id} is not the id of torch {span(releases)}: its functions take tensors, but no "
            "types that torch binds by pybind11, such as ProcessGroup"
        )
    if verbose:
        return text + _each_library(report)
    return text + _libraries(report, width) + _of_the_system(report, width)


def _claim(report: WheelReport) -> str:
    """The sentence which compares METADATA's range with the true one."""
    declared = report.declared or "nothing, so any torch"
    if report.claim == "nothing to judge":
        return f"declared: {declared}; it has no compiled library: there is nothing to judge"
    words = {
        "true": "as it is",
        "wider": "wider than the truth",
        "narrower": "narrower than the truth",
        "wider and narrower": "wider than the truth, and narrower elsewhere",
        "unknown": "about none of the releases that were judged",
    }
    return f"declared: {declared}; true: {report.true_range}: the claim is {words[report.claim]}"


def needs_of_others(report: WheelReport) -> list[str]:
    """What the wheel needs of the distributions that it requires, a sentence for each library."""
    brought: dict[str, str] = {}
    for library in report.libraries:
        brought |= library.companions
    sentences = []
    for soname, distribution in sorted(brought.items()):
        sentences.append(f"needs {soname}, which its requirement {distribution} brings")
    return sentences


def _without_library(report: WheelReport) -> list[str]:
    """The releases with which the wheel uses none of its libraries: a line for successive ones with the same note."""
    text: list[str] = []
    ordered = list(report.releases.items())
    for (verdict, note), stretch in itertools.groupby(ordered, key=lambda entry: (entry[1].verdict, entry[1].note)):
        releases = [release for release, _ in stretch]
        uses_some = any(meant_for(library.meant, releases[0]) for library in report.libraries)
        if note and not uses_some:
            text.append(f"torch {span(releases)}: {verdict.value}: {note}")
    return text


def _kind(library: LibraryReport) -> str:
    """A library's kind, and for users of torch's C++ interface what it was built against."""
    if library.kind is LibraryKind.TORCH:
        return f"torch, built against {library.built.words} ({library.built.how})"
    return library.kind.value


def _names_of(paths: Sequence[str], room: int) -> str:
    """The first path, as many others as fit `room` characters, and how many more there are."""
    folder = PurePosixPath(paths[0]).parent
    names = [paths[0]]
    for path in paths[1:]:
        beside = PurePosixPath(path).parent == folder
        names.append(PurePosixPath(path).name if beside else path)
    return shortened_list(names, len(names), max(room, len(paths[0]) + _AND_MORE))


# ---- what is wrong with the libraries


def _libraries(report: WheelReport, width: int) -> list[str]:
    """The libraries that use torch or fail, those with the same reasons together, who fails before who does not."""
    prepare_names([finding for library in report.libraries for finding in library.own.values()])
    bad_lines = {library.path: _bad_lines(library, report, width) for library in report.libraries}
    paths_by_section: dict[tuple[bool, int, str, tuple[str, ...]], list[str]] = defaultdict(list)
    for library in report.libraries:
        own_lines = bad_lines[library.path]
        heading = _kind(library)
        if not own_lines:
            culprits = [path for path in library.needs if bad_lines[path]]
            if culprits:
                heading = f"as {_names_of(culprits, 0)}, which it needs"
            elif _fits_some(library, report):
                heading = "builds of a library, of which the one that fits a torch counts"
                if library.kind is LibraryKind.TORCH:
                    heading = "for a torch with CUDA, and not opened beside one without"
            elif library.kind is LibraryKind.NEUTRAL:
                continue
        section = (not own_lines, _ORDER_OF_KINDS.index(library.kind), heading, tuple(own_lines))
        paths_by_section[section].append(library.path)
    text = []
    # Sorted by failure and kind alone: otherwise the order is that of the paths.
    for section, paths in sorted(paths_by_section.items(), key=lambda entry: entry[0][:2]):
        _, _, heading, own_lines_of_section = section
        text += [f"{_names_of(paths, width - len(heading) - 2)}: {heading}", *own_lines_of_section]
    return text


def _fits_some(library: LibraryReport, report: WheelReport) -> bool:
    """Whether a library fails with a release that the wheel works with: another build of it serves there."""
    for release, finding in library.own.items():
        if finding.verdict is Verdict.BROKEN and meant_for(library.meant, release) and report.works(release):
            return True
    return False


def _bad_lines(library: LibraryReport, report: WheelReport, width: int) -> list[str]:
    """A library's own failures: successive releases together, with the reasons of the one next to those that work.

    Releases further away mostly lack the same names and others.
    """
    text = []
    findings = []
    for release, finding in library.own.items():
        if meant_for(library.meant, release):
            # With a release that the wheel works with, another build of the library serves.
            findings.append((release, Finding(Verdict.OK) if report.works(release) else finding))
    start = 0
    while start < len(findings):
        verdict = findings[start][1].verdict
        end = start
        while end < len(findings) and findings[end][1].verdict is verdict:
            end += 1
        if verdict in _BAD:
            # What comes after works, or else what came before: the nearest of the failing releases is beside it.
            nearest = end - 1 if end < len(findings) or not start else start
            text += _stretch_lines(verdict, findings[start:end], findings[nearest], width)
        start = end
    return text


def _stretch_lines(
    verdict: Verdict, stretch: Sequence[tuple[str, Finding]], nearest: tuple[str, Finding], width: int
) -> list[str]:
    heading = f"  {verdict.value} with {span([release for release, _ in stretch])}"
    if any(finding != nearest[1] for _, finding in stretch):
        heading += f", {nearest[0]} for these reasons"
    sentences = reasons(nearest[1], width - 4)
    one_line = f"{heading}: {sentences[0]}"
    if len(sentences) == 1 and len(one_line) <= width:
        return [one_line]
    return [f"{heading}:", *(f"    {sentence}" for sentence in sentences)]


# ---- what the system has to bring


def _of_the_system(report: WheelReport, width: int) -> list[str]:
    """What libraries need of the system, each need once, with the libraries that have it.

    Needs with releases that the wheel does not work with anyway are left out.
    """
    working = [release for release in report.releases if report.works(release)] or list(report.releases)
    users: dict[str, dict[str, None]] = defaultdict(dict)  # an ordered set of paths for each need
    releases_by_need: dict[str, set[str]] = defaultdict(set)
    notes: dict[str, list[str]] = {}
    for library in report.libraries:
        for release in working:
            finding = library.own.get(release)
            if finding is None or finding.verdict is not Verdict.ENV or not meant_for(library.meant, release):
                continue
            for need in _needs(finding):
                users[need][library.path] = None
                releases_by_need[need].add(release)
            if finding.note and release not in notes.setdefault(finding.note, []):
                notes[finding.note].append(release)
    # Libraries of the same project are needed by the same users.
    needs_by_users: dict[tuple[tuple[str, ...], frozenset[str]], list[str]] = defaultdict(list)
    for need, paths in sorted(users.items()):
        needs_by_users[tuple(paths), frozenset(releases_by_need[need])].append(need)
    text = ["the system has to bring"] if users else []
    for (users_of_needs, releases), needs in needs_by_users.items():
        only_with = [release for release in working if release in releases]
        when = f" with {span(only_with)}" if len(only_with) < len(working) else ""
        words = f"  {', '.join(needs)}{when}: for "
        text.append(words + _names_of(users_of_needs, width - len(words)))
    for note, releases_with_note in notes.items():
        text.append(f"  with {span(releases_with_note)} {note}")
    return text


def _needs(finding: Finding) -> list[str]:
    needs = list(finding.libraries)
    if finding.newer_cxx:
        needs.append(f"a {CXX_LIBRARY} newer than manylinux promises")
    return needs


# ---- everything


def _each_library(report: WheelReport) -> list[str]:
    """Every library with all its reasons, its own and those of what it needs."""
    prepare_names([finding for library in report.libraries for finding in library.own.values()], most=None)
    text = []
    for library in report.libraries:
        text.append(f"{library.path}: {_kind(library)}")
        if library.needs:
            text.append(f"  needs {', '.join(library.needs)}")
        releases_by_reason: dict[tuple[str, ...], list[str]] = {}
        for release, finding in library.releases.items():
            if finding.verdict is not Verdict.OK and meant_for(library.meant, release):
                key = (finding.verdict.value, *all_reasons(finding))
                releases_by_reason.setdefault(key, []).append(release)
        for (verdict, *why), releases in releases_by_reason.items():
            text.append(f"  {verdict} with {', '.join(releases)}: {'; '.join(why)}")
    return text
