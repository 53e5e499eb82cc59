"""Every setting is an input of a stage: what is forgotten there keeps a wheel that is out of date."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, fields, replace
from functools import cache
from pathlib import Path

import pytest

from tests.compiler import compiled
from tests.conftest import CHECKOUT
from tests.pipeline.test_repair import wheel
from tests.pipeline.test_runner import context
from torch_build_farm.core.errors import RepairError
from torch_build_farm.core.process import Runner
from torch_build_farm.core.store import TorchStore
from torch_build_farm.core.versions import CPython, Minor
from torch_build_farm.engines.base import Interpreter
from torch_build_farm.engines.interpreters import find_interpreters
from torch_build_farm.engines.local import LocalEngine
from torch_build_farm.pipeline import records, rendered_tree
from torch_build_farm.pipeline.facts import BuildFacts
from torch_build_farm.pipeline.once import Once
from torch_build_farm.pipeline.records import Artifact, Record
from torch_build_farm.pipeline.stage import RunContext, Step
from torch_build_farm.pipeline.stages.order import ALL, stages_of
from torch_build_farm.pipeline.stages.repair import REPAIR
from torch_build_farm.project import tree
from torch_build_farm.project.fetch import Fetcher
from torch_build_farm.project.overrides import Override
from torch_build_farm.project.plan import Job
from torch_build_farm.project.settings import Settings, load
from torch_build_farm.project.tables import kebab

TABLE = '[tool.torch-build-farm]\nname = "demo"\npackages = ["demo"]\n'
FILES = {
    "pyproject.toml": f'[project]\nname = "demo"\nversion = "1"\n{TABLE}',
    "other.toml": '[project]\nname = "demo"\nversion = "1"\ndescription = "another one"\n',
    "below/pyproject.toml": '[project]\nname = "demo"\nversion = "1"\n',
    "elsewhere/pyproject.toml": '[project]\nname = "demo"\nversion = "1"\n',
    "demo/__init__.py": "value = 1\n",
    "fix.diff": "--- a/demo/__init__.py\n+++ b/demo/__init__.py\n@@ -1 +1 @@\n-value = 1\n+value = 2\n",
    "smoke.py": "import demo\n",
    "more.sh": "true\n",
}
CODE = "int answer() { return 42; }"
PREPARE = 'prepare = ["make"]\n'
SETTINGS = {
    "name": '"other"',
    "packages": '["demo", "other"]',
    "auto-name": '"demo-picks"',
    "select-name": '"demo-chooses"',
    "source": '"elsewhere"',
    "subdirectory": '"below"',
    "patches": '["fix.diff"]',
    "pyproject": '"other.toml"',
    "version": '"2"',
    "plain-files": '["scripts/*"]',
    "requires": '["numpy"]',
    "imports": '["demo.more"]',
    "import-torch-first": "true",
    "smoke-script": '"smoke.py"',
    "test-requires": '["pytest"]',
    "test-extras": '["test"]',
    "test-command": '["true"]',
    "torch-flavours": '"any"',
    "torch-build": '"full"',
    "network": "true",
    "environment": '{ MODE = "fast" }',
    "cmake-defines": '{ MODE = "fast" }',
    "build-requires": '["wheel"]',
    "config-settings": '{ mode = "fast" }',
    "build-constraints": '["setuptools==80.9.0"]',
    "before-build": '["true"]',
    "system-packages": '{ apt = ["liblzma-dev"] }',
    "prepare": '["true"]',
    "prefixes": '["/opt/fmt"]',
    "cuda-arch-list": '["9.0"]',
    "compress-device-code": "true",
    "grafted-libraries": '["libfmt.so*"]',
    "external-libraries": '{ "libfoo.so*" = "system" }',
    "cpu-baseline": '"x86-64-v3"',
    "size-limit-mb": "1",
    "exclude": '["/more.sh"]',
}
# Which jobs there are, where a source is fetched from (its content counts), and what changes no wheel.
OF_NO_STAGE = {
    *("torch", "platforms", "stable-abi", "git", "revision", "sdist", "sdist-sha256", "overrides"),
    *("memory-per-compile-gb", "ci"),
    "prepare-files",  # below, since it changes something only beside `prepare`
    "core",  # below, since its job is one of its own
}


@cache
def interpreters() -> dict[CPython, Interpreter]:
    """This machine's: looking for them takes longer than everything else here."""
    return find_interpreters(dict(os.environ))


@dataclass
class Project:
    """A project of a few files, and the inputs of its job's stages."""

    root: Path
    lines: str = ""
    files: dict[str, str] = field(default_factory=lambda: dict(FILES))

    def run(self, *, of_core: bool = False) -> tuple[RunContext, Job]:
        """A run of one job, of a variant or of the core."""
        for name, content in self.files.items():
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content + (self.lines if name == "pyproject.toml" else ""))
        work = self.root / "work"
        project = load(self.root, CHECKOUT)
        variant, python = project.core if of_core else project.variants[Minor(2, 11)], CPython.running()
        assert variant
        settings = project.settings.for_job(variant, python)
        origin = Fetcher(work / "sources", Runner(), print).obtain(project)
        source = tree.read(origin, ("/work/", *settings.exclude), settings.version, project.changes_by(settings))
        job = Job(project.distribution(variant), source.version, variant, python)
        engine = LocalEngine(project, TorchStore.at(work / "store", work))
        engine.__dict__["_interpreters"] = interpreters()
        run = replace(
            context(work),
            project=project,
            source=source,
            engine=engine,
            smoke="full",
            trees={job.id: Once(lambda: rendered_tree.render(project, source, job))},
        )
        return run, job

    def inputs(self, *, of_core: bool = False) -> dict[str, str]:
        """The digest of each stage's inputs, as if the stages before it had made the same as ever."""
        run, job = self.run(of_core=of_core)
        before: dict[str, Record] = {}
        digests = {}
        for stage in stages_of(job, ALL):
            inputs = stage.inputs(Step(run, job, before, print))
            digests[stage.name] = records.digest(inputs)
            details = BuildFacts("local", "", "torch 2.11.0", None, None, ()) if stage.name == "build" else None
            made = Artifact(f"jobs/{job.id}/{stage.name}", "ab" * 32, 1)
            before[stage.name] = Record(stage.name, job.id, "", (made,), 0, "", details=details)
        return digests


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return Project(tmp_path_factory.mktemp("usual")).inputs()


def test_every_setting_is_here() -> None:
    names = {kebab(setting.name) for setting in fields(Settings)}
    assert names == SETTINGS.keys() | OF_NO_STAGE
    assert {kebab(setting.name) for setting in fields(Override)} - {
        "torch",
        "cpython",
        "cuda",
        "platform",
    } <= SETTINGS.keys()


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_is_an_input(tmp_path: Path, usual: dict[str, str], name: str) -> None:
    project = Project(tmp_path, f"{name} = {SETTINGS[name]}\n")
    if name in ("name", "packages"):
        project.lines = ""
        old, new = {"name": ('name = "demo"\npackages', 'name = "other"\npackages'),
                    "packages": ('["demo"]', SETTINGS["packages"])}[name]  # fmt: skip
        project.files["pyproject.toml"] = FILES["pyproject.toml"].replace(old, new)
    assert project.inputs() != usual


@pytest.mark.parametrize(
    "override",
    [
        *(
            'environment = { MODE = "fast" }',
            'cmake-defines = { MODE = "fast" }',
            'config-settings = { mode = "fast" }',
        ),
        *(
            'build-requires = ["wheel"]',
            'before-build = ["true"]',
            'cuda-arch-list = ["9.0"]',
            'patches = ["fix.diff"]',
        ),
    ],
)
def test_an_override_is_an_input_of_the_jobs_that_it_selects(
    tmp_path: Path, usual: dict[str, str], override: str
) -> None:
    entry = f"[[tool.torch-build-farm.overrides]]\n{override}\n"
    assert Project(tmp_path / "of-it", f'{entry}torch = ["2.11"]\n').inputs() != usual
    assert Project(tmp_path / "of-another", f'{entry}torch = ["2.12"]\n').inputs() == usual


def test_files_of_prepare_are_an_input(tmp_path: Path) -> None:
    project = Project(tmp_path, f'{PREPARE}prepare-files = ["more.sh"]\n')
    before = project.inputs()
    assert project.inputs() == before
    project.files["more.sh"] = "false\n"
    assert project.inputs() != before


CORE = '[tool.torch-build-farm.core]\nname = "base"\npyproject = "base.toml"\npackages = ["base"]\n'


def with_core(root: Path, lines: str = "", table: str = CORE) -> Project:
    """A project with a core."""
    bases = {
        "base.toml": '[project]\nname = "base"\nversion = "1"\n',
        "other.toml": '[project]\nname = "base"\nversion = "1"\ndescription = "another one"\n',
    }
    return Project(root, f"{lines}{table}", {**FILES, **bases})


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"base.toml"', '"other.toml"'),
        ('["base"]', '["base", "more"]'),
        ('["base"]', '["base"]\nimports = ["base.more"]'),
        ('["base"]', '["base"]\nenvironment = { MODE = "fast" }'),
        ('["base"]', '["base"]\ncmake-defines = { MODE = "fast" }'),
    ],
)
def test_the_table_of_the_core_is_an_input_of_its_job(tmp_path: Path, old: str, new: str) -> None:
    usual = with_core(tmp_path / "usual")
    changed = with_core(tmp_path / "changed", table=CORE.replace(old, new))
    assert changed.inputs(of_core=True) != usual.inputs(of_core=True)
    assert changed.inputs() == usual.inputs()


@pytest.mark.parametrize(
    ("lines", "counts"),
    [
        ('before-build = ["true"]\n', True),
        ('cpu-baseline = "x86-64-v3"\n', True),
        ('cuda-arch-list = ["9.0"]\n', False),
        ('requires = ["numpy"]\n', False),
        ('torch-build = "full"\n', False),
    ],
)
def test_what_concerns_torch_builds_no_core_again(tmp_path: Path, lines: str, *, counts: bool) -> None:
    usual, changed = with_core(tmp_path / "usual"), with_core(tmp_path / "changed", lines)
    assert (changed.inputs(of_core=True) != usual.inputs(of_core=True)) is counts
    assert changed.inputs() != usual.inputs()


def repair(project: Project, *linker_flags: str, tag: str = "cp311-cp311", code: str = CODE) -> str:
    """What repair says of a wheel of that tag with one library."""
    run, job = project.run()
    run.store.make()
    run.log(job).parent.mkdir(parents=True)
    raw = run.folder(job) / "raw"
    raw.mkdir(parents=True)
    core = compiled(raw, code, *linker_flags)
    built = wheel(raw, {"demo/_core.so": core, "demo/__init__.py": b"value = 1\n"}).path
    built = built.rename(raw / f"demo_torch211-1-{tag}-linux_x86_64.whl")
    before = {"build": Record("build", job.id, "", (records.artifact(built, run.work),), 0, "")}
    with pytest.raises(RepairError) as caught:
        REPAIR.work(Step(run, job, before, print))
    return caught.value.what


def test_repair_asks_for_what_an_override_says(tmp_path: Path) -> None:
    """Device code of one minor alone."""
    lines = '[[tool.torch-build-farm.overrides]]\ntorch = ["2.11"]\ncuda-arch-list = ["9.0"]\n'
    assert "no device code, though cuda-arch-list asks for sm_90" in repair(Project(tmp_path, lines))


def test_repair_refuses_an_abi3_wheel_that_is_none(tmp_path: Path) -> None:
    code = 'extern "C" void* _PyObject_GetDictPtr(void*); extern "C" void* run(void* self) { return _PyObject_GetDictPtr(self); }'
    assert "outside the limited API of Python 3.9: _PyObject_GetDictPtr" in repair(
        Project(tmp_path), tag="cp39-abi3", code=code
    )


@pytest.mark.parametrize(
    ("back_end", "files", "words"),
    [
        ("setuptools.build_meta", [], "leave runtime_library_dirs out of the extension"),
        ("setuptools.build_meta", ["CMakeLists.txt"], "or set CMAKE_INSTALL_RPATH"),
        ("scikit_build_core.build", [], "set CMAKE_INSTALL_RPATH"),
        ("mesonpy", [], "set install_rpath of the target"),
        ("hatchling.build", [], "leave -Wl,-rpath out of the linker's flags"),
    ],
)
def test_advice_on_run_paths_fits_the_back_end(tmp_path: Path, back_end: str, files: list[str], words: str) -> None:
    project = Project(tmp_path)
    build_system = f'[build-system]\nrequires = []\nbuild-backend = "{back_end}"\n'
    project.files["pyproject.toml"] = build_system + FILES["pyproject.toml"]
    project.files |= dict.fromkeys(files, "\n")
    said = repair(project, "-Wl,-rpath,/opt/builder/lib")
    assert words in said
    assert ("CMAKE" in said) == ("CMAKE" in words)
