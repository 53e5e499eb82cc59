"""A release without compiled code: a project folder, proven variants in its work folder, and a stand-in torch on an index."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests import family
from tests.conftest import CHECKOUT, Farm
from tests.index import Index
from tests.proofs import prove
from torch_build_farm.core.files import sha256
from torch_build_farm.core.wheel_archive import write_wheel
from torch_build_farm.project.settings import Project, load
from torch_build_farm.publish import inventory, published_list
from torch_build_farm.publish.published_list import PublishedFile
from torch_build_farm.wheels import one_name

NAME = "demo"
_PROJECT = f"""[build-system]
requires = ["setuptools"]

[project]
name = "{NAME}"
version = "1.0"

[tool.torch-build-farm]
name = "{NAME}"
packages = ["{NAME}"]
"""


@dataclass
class Release:
    """The project `demo` in `folder`/demo, and an index of `folder`/torch that has a stand-in torch."""

    folder: Path
    torch: Index
    store: Path

    @classmethod
    def make(cls, folder: Path, store: Path) -> Release:
        (folder / NAME).mkdir(parents=True)
        (folder / NAME / "pyproject.toml").write_text(_PROJECT)
        (folder / "torch").mkdir()
        torch = Index(folder / "torch")
        for version in ("2.8.0", "2.9.0", "2.15.0"):
            torch.add_wheel(family.torch(folder / "made", version))
        return cls(folder, torch, store)

    @property
    def project(self) -> Project:
        return load(self.folder / NAME, CHECKOUT)

    def farm(self, **env: str) -> Farm:
        """The farm on this project: torch comes from the index that has the stand-ins."""
        variables = {
            "UV_DEFAULT_INDEX": self.torch.url, "UV_NO_CONFIG": "1", "CI": "", "TORCH_BUILD_FARM_STORE": str(self.store),
            "TORCH_BUILD_FARM_STATE": os.environ.get("TORCH_BUILD_FARM_STATE", ""), "TWINE_USERNAME": "me", "TWINE_PASSWORD": "none",
        }  # fmt: skip
        return Farm(self.folder / NAME, self.folder / "work", {**variables, **env})

    def published(self, index: Index, *variants: Path) -> list[Path]:
        """These variants and the wheels behind the one name, on the index and in the project's list."""
        behind = one_name.write(inventory.family(self.project, inventory.built(self.project, self.dist), []), self.dist)
        for path in (*variants, *behind):
            index.add_wheel(path)
        self.list(index, *variants, *behind)
        return [*variants, *behind]

    def list(self, index: Index, *wheels: Path) -> None:
        """Add wheels to the project's list of what it published."""
        files = [
            PublishedFile(path.name.split("-")[0].replace("_", "-"), path.name, index.url, sha256(path))
            for path in wheels
        ]
        published_list.write(published_list.read(self.project.root).with_files(files), self.project.root)

    @property
    def dist(self) -> Path:
        return self.folder / "work" / "dist"

    def variant(
        self,
        torch: str,
        version: str = "1.0",
        files: Mapping[str, str | bytes] | None = None,
        tag: str = "py3-none-any",
    ) -> Path:
        """A wheel of a variant in work/dist, for every CPython unless `tag` says otherwise, without records."""
        content = {f"{NAME}/__init__.py": f"torch = '{torch}'\n", **(files or {})}
        made = family.variant(self.folder / "made" / torch / version, self.project, torch, version, content, tag=tag)
        wheel = self.dist / made.name
        wheel.parent.mkdir(parents=True, exist_ok=True)
        made.replace(wheel)
        return wheel

    def proven(self, wheel: Path) -> Path:
        """Write the records of a wheel that was built, audited and smoke-tested in full."""
        prove(wheel, self.folder / "work", wheel.name)
        return wheel


def with_members(wheel: Path, members: Mapping[str, str | bytes]) -> Path:
    """The wheel with further members, or with other content for some that it has; RECORD lists them."""
    with zipfile.ZipFile(wheel) as archive:
        content = {info.filename: archive.read(info) for info in archive.infolist()}
    content |= {name: text if isinstance(text, bytes) else text.encode() for name, text in members.items()}
    write_wheel(wheel, [(zipfile.ZipInfo(name), data) for name, data in content.items()])
    return wheel
