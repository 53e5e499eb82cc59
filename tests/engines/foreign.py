"""Made-up packages, and builds by the local engine whose back end does what a test tells it to."""

from __future__ import annotations

import platform
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from tests.conftest import CHECKOUT
from torch_build_farm.core import tools
from torch_build_farm.core.process import Runner, Shell
from torch_build_farm.core.store import TorchStore
from torch_build_farm.core.versions import CPython, Minor
from torch_build_farm.core.wheel_archive import write_wheel
from torch_build_farm.engines.base import BuildRequest, Interpreter
from torch_build_farm.engines.local import LocalEngine
from torch_build_farm.engines.variables import CONSTRAINTS
from torch_build_farm.project.plan import Job
from torch_build_farm.project.settings import Project, load

PROJECT = load(CHECKOUT, CHECKOUT)
JOB = Job("demo-torch29", "1.0", PROJECT.variants[Minor(2, 9)], CPython.running())

_BACK_END = """
import os, pathlib, sys, zipfile

def get_requires_for_build_wheel(config_settings=None):
    {in_first_hook}
    return {further_requirements}

def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    out, name = pathlib.Path(wheel_directory), "demo-1.0-py3-none-any.whl"
    with zipfile.ZipFile(out / name, "w") as archive:
        archive.writestr("demo.py", "")
    {in_build}
    return name
"""


def write_package(folder: Path, name: str, files: Mapping[str, bytes], version: str = "1.0") -> Path:
    """A wheel of pure Python with these files."""
    info = f"{name}-{version}.dist-info"
    contents = {
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": b"",
    }
    path = folder / f"{name}-{version}-py3-none-any.whl"
    folder.mkdir(parents=True, exist_ok=True)
    members = []
    for member, content in contents.items():
        entry = zipfile.ZipInfo(member)
        entry.external_attr = 0o100644 << 16
        members.append((entry, content))
    write_wheel(path, members)
    return path


class Machine:
    """A store of its own in `folder`, an index of the files in `index`, and the local engine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.index = folder / "index"
        self.index.mkdir()
        self.store = TorchStore.at(folder / "store", folder)
        self.store.make()
        self.engine = self._engine(PROJECT)
        self.log = folder / "log"
        self.builds = 0
        # Where code of one project leaves a trace when it runs.
        self.trace = folder / "trace"
        self.store.uv_cache.mkdir()

    def _engine(self, project: Project) -> LocalEngine:
        engine = LocalEngine(project, self.store)
        # uv takes seconds to find all of this machine's where its cache is new.
        running = Interpreter(platform.python_version(), Path(sys.executable).resolve())
        vars(engine)["_interpreters"] = {CPython.running(): running}
        return engine

    @property
    def shell(self) -> Shell:
        env = tools.environment(self.store.uv_cache, self.store.root)
        env |= {"UV_OFFLINE": "1", "UV_FIND_LINKS": str(self.index)}
        return Shell(Runner(), env, self.store.root, self.log, lambda _: None)

    def build(
        self,
        in_build: str = "pass",
        *,
        requires: tuple[str, ...] = (),
        in_first_hook: str = "pass",
        further: tuple[str, ...] = (),
        before: tuple[str, ...] = (),
    ) -> Path:
        """Build a new project whose back end executes these statements; returns the wheel."""
        # Builds get no torch here: the store says it has all of it.
        self.store.remember(JOB.variant.release, JOB.python)
        self.builds += 1
        folder = self.folder / f"project{self.builds}"
        tree = folder / "tree"
        tree.mkdir(parents=True)
        (tree / "pyproject.toml").write_text(
            f'[build-system]\nrequires = {list(requires)}\nbuild-backend = "back_end"\nbackend-path = ["."]\n'
        )
        text = _BACK_END.format(
            in_build=in_build, in_first_hook=in_first_hook, further_requirements=repr(list(further))
        )
        (tree / "back_end.py").write_text(text)
        (tree / CONSTRAINTS).parent.mkdir()
        (tree / CONSTRAINTS).touch()
        (folder / "out").mkdir()
        (folder / "scratch").mkdir()
        settings = replace(PROJECT.settings, before_build=before, environment={}, cuda_arch_list=())
        request = BuildRequest(
            job=JOB,
            tree=tree,
            scratch=folder / "scratch",
            out=folder / "out",
            makeflags="",
            share=1,
            epoch=315532800,
            version_from_scm=False,
            shell=self.shell,
        )
        return self._engine(replace(PROJECT, settings=settings)).build(request)
