"""Files of a source tree that say something of the project, read as data, and only where they lie in the tree."""

from __future__ import annotations

import errno
from pathlib import Path

from torch_build_farm.core import foreign_files
from torch_build_farm.core.errors import SourceError, UnsafeNameError
from torch_build_farm.core.paths import inside

LARGEST = 256 << 10  # bytes
# Folders of a tree whose content is not the project's own, or is not installed.
NOT_ITS_OWN = {"3rdparty", "build", "docs", "examples", "extern", "external", "test", "tests", "third_party", "vendor"}


def content(root: Path, name: str, limit: int = LARGEST) -> bytes:
    """The bytes of a file of the tree; none where there is no such file.

    `name` may come from the tree itself. Raises SourceError for a name or a link that leads out of the tree, for what
    is no regular file, and for a file of more than `limit` bytes.
    """
    try:
        return foreign_files.content(inside(root, name), limit)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return b""
    except UnsafeNameError as error:
        raise SourceError(f"a file of the source cannot be read: {error.what}", where=str(root)) from None
    except OSError as error:
        if error.errno == errno.EINVAL and (root / name).is_dir():
            return b""
        raise SourceError(
            f"a file of the source cannot be read: {error.strerror}",
            where=str(root / name),
            next_step="put a regular file there, or remove it",
        ) from None


def text(root: Path, name: str, limit: int = LARGEST) -> str:
    """As `content`, in UTF-8; what is not UTF-8 is replaced."""
    return content(root, name, limit).decode("utf-8", "replace")
