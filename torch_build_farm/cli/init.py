"""`init`: write a project file for a source tree or an sdist."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from torch_build_farm.cli.context import Context
from torch_build_farm.core.errors import UsageError
from torch_build_farm.core.files import replace_text, sha256
from torch_build_farm.project import scaffold
from torch_build_farm.project.fetch import Fetcher, only_folder, unpack
from torch_build_farm.project.settings import TABLE
from torch_build_farm.project.variant import read_variants


def init(context: Context) -> int:
    """`init`: write a project file for a source tree or an sdist."""
    what = Path(context.options.what)
    if what.is_dir():
        return _write_project(context, scaffold.look(what), {}, Path(context.options.folder or what), what)
    fetcher = Fetcher(context.store.root / "sources", context.runner, context.say)
    with context.store.in_use(), fetcher.scratch() as scratch:
        archive = what
        if not what.is_file():
            try:
                wanted = Requirement(context.options.what)
            except InvalidRequirement:
                raise UsageError(
                    f"{what} is neither a folder, nor a file, nor the name of an sdist",
                    next_step="such as `init .`, `init torch-cluster==1.6.3`, `init torch_cluster-1.6.3.tar.gz`",
                ) from None
            archive = fetcher.download(wanted, scratch)
        unpack(archive, scratch / "tree")
        found = scaffold.look(only_folder(scratch / "tree"))
        if not (found.name and found.version):
            raise UsageError(
                f"{archive.name} does not say its name and version, so it is no sdist",
                next_step="unpack it and init the folder, or use git and revision",
            )
        origin = {"sdist": f"{canonicalize_name(found.name)}=={found.version}", "sdist-sha256": sha256(archive)}
        return _write_project(context, found, origin, Path(context.options.folder or canonicalize_name(found.name)))


def _write_project(
    context: Context, found: scaffold.Found, origin: dict[str, str], folder: Path, source: Path | None = None
) -> int:
    """Write the table to the folder's pyproject.toml: a new one, or at the end of one that has none."""
    if source and folder.resolve() != source.resolve():
        origin = {"source": os.path.relpath(source, folder)}
    variants = list(read_variants([context.builtin / "variants"]).values())
    text = scaffold.project_file(found, origin, variants)
    path = folder / "pyproject.toml"
    try:
        old = path.read_bytes().decode("utf-8") if path.is_file() else ""
        table = tomllib.loads(old).get("tool", {})
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"not valid TOML: {error}", where=str(path), next_step="mend it, then init again") from None
    if TABLE in table:
        raise UsageError(f"there is a [tool.{TABLE}] already", where=str(path), next_step="edit it, or remove it")
    added = f"\n{text}".replace("\n", "\r\n") if "\r\n" in old else f"\n{text}"
    try:
        replace_text(path, old + added if old else text)
    except OSError as error:
        raise UsageError(
            f"cannot be written: {error.strerror}", where=str(path), next_step="name another DIR"
        ) from None
    context.say(f"wrote {path}:\n\n{text}")
    marks = text.count(scaffold.MARK) - 1
    context.say(f"{marks} lines to check; then: build_farm.py --project {folder} --torch {variants[-1].torch}")
    return 0
