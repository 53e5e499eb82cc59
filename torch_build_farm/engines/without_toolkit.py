"""The search path of a build that is to have no CUDA toolkit, on a machine that has one.

A setup.py may compile device code wherever it finds nvcc. What a wheel holds would then depend on the machine. This
hides nvcc from a search by PATH; torch's own guess, /usr/local/cuda (torch.utils.cpp_extension.CUDA_HOME), remains.
"""

from __future__ import annotations

import os
from pathlib import Path


def path_without_nvcc(path: str, links: Path) -> str:
    """A search path with every program of `path` but nvcc, in the same order.

    A folder that holds nvcc may hold a compiler as well, as Debian's /usr/bin does. A folder of links, made within
    `links`, takes its place. Raises OSError where that cannot be made.
    """
    folders = []
    for number, folder in enumerate(path.split(os.pathsep)):
        if folder and os.path.lexists(Path(folder) / "nvcc"):
            folders.append(str(_linked_without_nvcc(Path(folder), links / str(number))))
        else:
            folders.append(folder)
    return os.pathsep.join(folders)


def _linked_without_nvcc(folder: Path, links: Path) -> Path:
    """Make a folder of links to what is in `folder`, nvcc excepted."""
    links.mkdir(parents=True)
    for entry in folder.iterdir():
        if entry.name != "nvcc":
            (links / entry.name).symlink_to(entry.absolute())
    return links
