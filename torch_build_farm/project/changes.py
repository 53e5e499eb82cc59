"""What a project changes of a source before anything of it is read: patches, and which file is its pyproject.toml."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch_build_farm.core import patches as diffs
from torch_build_farm.core.errors import FarmError, SourceError, nearest
from torch_build_farm.core.paths import inside
from torch_build_farm.project import source_files

# Bytes. Nothing larger says anything of a project; of a larger file a copy is made only where a patch changes it.
_LARGEST = 1 << 20


@dataclass(frozen=True)
class Changes:
    """What is changed, in this order: `patches` are the paths of diffs, `pyproject` is a file beside pyproject.toml."""

    patches: tuple[Path, ...] = ()
    pyproject: str = ""

    def __bool__(self) -> bool:
        return bool(self.patches or self.pyproject)


NONE = Changes()


@dataclass(frozen=True)
class ChangedCopy:
    """A copy of a source in `folder`, with its changes; `names` are the files that it got, by their paths."""

    folder: Path
    names: frozenset[str]


@contextlib.contextmanager
def changed_copy(
    root: Path, project: Path, files: Sequence[str], links: Sequence[str], changes: Changes
) -> Iterator[ChangedCopy]:
    """A copy of the source in `root` with the changes, in a temporary folder; the source stays as it is.

    The copy has the regular `files` and the `links` to folders, by their paths in the source, but no large file that is
    not changed. `project` is the folder of the Python project in the source. Raises SourceError where a change cannot
    be made; errors in the block name files as they are called in the source.
    """
    with tempfile.TemporaryDirectory(prefix="torch-build-farm-source-") as folder:
        copy = Path(folder).resolve()
        wanted = set()
        for patch in changes.patches:
            wanted |= set(diffs.files(patch, copy))
        for name in links:
            _make_room(copy / name).symlink_to((root / name).readlink())
        names = [name for name in files if name in wanted or _size(root / name) <= _LARGEST]
        for name in names:
            shutil.copy(root / name, _make_room(copy / name))
        try:
            for patch in changes.patches:
                diffs.apply(patch, copy)
            if changes.pyproject:
                _replace_pyproject(copy / project.relative_to(root), changes.pyproject)
            yield ChangedCopy(copy, frozenset({*names, *links}))
        except FarmError as error:
            error.where = error.where.replace(str(copy), str(root))
            raise


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise SourceError(
            f"a source file cannot be read: {error.strerror}", where=str(path), next_step="run again"
        ) from None


def _make_room(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _replace_pyproject(project: Path, name: str) -> None:
    """Let the file `name` of the project's folder be its pyproject.toml. Raises SourceError where there is none."""
    text = source_files.content(project, name)
    if not text:
        candidates = sorted(path.name for path in project.glob("*.toml"))
        raise SourceError(
            f"the source has no {name}; {nearest(name, candidates)}",
            where=str(project),
            next_step="correct pyproject in [tool.torch-build-farm]",
        )
    path = inside(project, "pyproject.toml")
    path.unlink(missing_ok=True)
    path.write_bytes(text)
