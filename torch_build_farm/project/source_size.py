"""How large a source is: each run reads all of it, and each job carries a copy."""

from __future__ import annotations

from collections import Counter
from pathlib import PurePosixPath

from torch_build_farm.core.files import size_text
from torch_build_farm.project.tree import Source

_LARGE = 200_000_000  # bytes: several times what the sources of the largest extensions have
_SHARE = 0.1  # of the whole that a folder has at least, to be named
_MOST_FOLDERS = 5


def notice(source: Source) -> str:
    """What to say of a large source, with the folders that hold most of it; empty for a source of ordinary size."""
    total = 0
    sizes: Counter[str] = Counter()
    for file in source.files:
        size = _size(source, file.path) if file.content is None and not file.link else len(file.content or b"")
        total += size
        for folder in PurePosixPath(file.path).parents:
            sizes[str(folder)] += size
    if total < _LARGE:
        return ""
    named = ", ".join(f"{folder} has {size_text(sizes[folder])}" for folder in _largest(sizes, total))
    return (
        f"the source has {size_text(total)}, which every run reads and every job copies{': ' if named else ''}{named}; "
        "what no build needs belongs into .gitignore, or into exclude in [tool.torch-build-farm]"
    )


def _size(source: Source, path: str) -> int:
    try:
        return (source.root / path).stat().st_size
    except OSError:  # gone since; the job that wants it says so
        return 0


def _largest(sizes: Counter[str], total: int) -> list[str]:
    """The folders with much in them, the largest first: of one within another only that which has nearly all of it."""
    chosen: list[str] = []
    for folder, size in sizes.most_common():
        if folder == "." or size < total * _SHARE:
            continue
        # Folders above come first, since they have no less.
        above = [other for other in chosen if PurePosixPath(other) in PurePosixPath(folder).parents]
        if not above:
            chosen.append(folder)
        elif size >= sizes[above[-1]] * (1 - _SHARE):
            chosen[chosen.index(above[-1])] = folder
    return chosen[:_MOST_FOLDERS]
