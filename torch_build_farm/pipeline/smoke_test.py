"""A fresh environment with the wheel's own full torch: install, import, compute, and the refusal of another torch."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from torch_build_farm.core.errors import BuildError, SmokeError
from torch_build_farm.core.files import remove_tree
from torch_build_farm.core.process import Completed, Shell
from torch_build_farm.core.requirements import read_version
from torch_build_farm.core.text import is_utf8
from torch_build_farm.engines import torch_bytecode, torch_downloads, variables
from torch_build_farm.engines.base import Site
from torch_build_farm.engines.diagnosis import diagnose, install_error
from torch_build_farm.pipeline.facts import SmokeFacts
from torch_build_farm.pipeline.project_tests import ProjectTests
from torch_build_farm.pipeline.stage import Mode
from torch_build_farm.project.external_libraries import policy, provider
from torch_build_farm.project.plan import Job
from torch_build_farm.project.settings import SYSTEM, Project
from torch_build_farm.project.variant import StableVariant, Variant
from torch_build_farm.wheels import driver
from torch_build_farm.wheels.wheel import Wheel, read_wheel

# The loader's message for a library that it does not find (glibc, dl-load.c).
_UNOPENED = re.compile(r"(\S+): cannot open shared object file")
# Prints torch's version, CUDA and devices as one line of JSON. It may follow another statement.
_DESCRIBE_TORCH = """
import json, torch
print(json.dumps({
    "torch": torch.__version__,
    "cuda": str(torch.version.cuda),
    "devices": ["cpu", *(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))],
}))
"""


@dataclass(frozen=True)
class SmokeTest:
    """The smoke test of one wheel with one torch at `site`, in a fresh environment that is removed afterwards.

    `torch` is a version that the variant's wheels are tested with, such as "2.9.*". The folder of `wheel` also has the
    wheels behind the one name, which it requires, and nothing else. The index may have other wheels of these names, or
    none, so they are installed from files.
    `source` is the project's source tree, `tree` the rendered one that the wheel was built from.
    """

    project: Project
    job: Job
    wheel: Path
    torch: str
    source: Path
    tree: Path
    mode: Mode
    site: Site

    @property
    def home(self) -> Path:
        """The environment's folder."""
        return self.site.store.environment(f"{self.job.id}-smoke")

    def run(self) -> SmokeFacts:
        """Test the wheel. Raises SmokeError, or a more exact error where nothing could be installed."""
        wheel = read_wheel(self.wheel)
        problems = metadata_problems(wheel, self.job, self.site.python.version)
        if problems:
            raise self._error("METADATA is wrong: " + "; ".join(problems))
        # All wheels as one folder, since each copy into a container takes a tenth of a second.
        folder = self.site.bring(self.wheel.parent)
        wheels = [folder / path.name for path in sorted(self.wheel.parent.iterdir())]
        try:
            # As a user has it: the wheel and what it requires, torch with its CUDA libraries among it.
            self._install(self.home, wheels)
            refuses = self._refusal(folder / self.wheel.name) if self.mode == "full" else None

            # The farm's own commands are done: from here on the wheel's code runs.
            with self.site.foreign(self.home) as plain_shell:
                shell, stubs = self._with_driver(plain_shell, self.home, wheel)
                facts = replace(self._imports(shell), refuses=refuses, stubs=stubs)
                if self.mode == "import":
                    return facts
                if not self._tests.need_more:
                    return self._tested(facts, shell, self.home)
        finally:
            self.site.remove(self.home)

        # Another environment: nothing is installed where foreign code has run, and what only the tests need must not
        # have helped an import.
        home = self.site.store.environment(f"{self.job.id}-tests")
        beside = [path for path in wheels if path.name != self.wheel.name]
        try:
            self._install(home, [*beside, *self._tests.required(wheel, folder / self.wheel.name)])
            with self.site.foreign(home) as plain_shell:
                shell, _ = self._with_driver(plain_shell, home, wheel)
                return self._tested(facts, shell, home)
        finally:
            self.site.remove(home)

    @property
    def _tests(self) -> ProjectTests:
        return ProjectTests(self.project, self.job, self.source, self.tree, self.site)

    def _tested(self, facts: SmokeFacts, shell: Shell, home: Path) -> SmokeFacts:
        """The facts with what the project's own tests say in the environment `home`."""
        script = self._tests.script(shell, home)
        return replace(facts, script=script, tests=tuple(self._tests.commands(shell, home)))

    def _with_driver(self, shell: Shell, home: Path, wheel: Wheel) -> tuple[Shell, tuple[str, ...]]:
        """`shell` with stubs of what the wheel needs of NVIDIA's driver and the site lacks, and their names.

        So a machine without a GPU proves that the wheel loads; nothing else of the farm sees the stubs.
        """
        python, folder = home / "bin" / "python", self.wheel.parent / "driver-stubs"
        remove_tree(folder)  # of the other environment
        stubs = driver.of_wheel(wheel)
        lacking = driver.stand_in(stubs, folder, lambda statement: shell.run(python, "-I", "-c", statement).ok)
        if not lacking:
            return shell, ()
        shell.say(f"{', '.join(lacking)}: a stub, since there is no driver here")
        return replace(shell, prefix=tuple(driver.beside(self.site.bring(folder)))), lacking

    def _imports(self, shell: Shell) -> SmokeFacts:
        """Import the project's modules, each in an interpreter of its own, so that none finds torch loaded already."""
        first, *others = self._innermost()
        torch = self._first_import(shell, first)
        for name in others:
            self._import(shell, name)
        return SmokeFacts(torch.version, torch.cuda, torch.devices, self.project.imports)

    @property
    def _what(self) -> str:
        """What is tested, as errors name it."""
        if isinstance(self.job.variant, StableVariant):
            return f"{self.job.id} with torch {self.torch}"
        return self.job.id

    def _error(self, what: str, next_step: str = "") -> SmokeError:
        return SmokeError(f"{self._what}: {what}", where=str(self.site.shell.log), next_step=next_step)

    def _python(self, shell: Shell, *arguments: str | Path) -> Completed:
        """Run the environment's interpreter, isolated (-I): no module comes from the current folder or PYTHONPATH."""
        return shell.run(self.home / "bin" / "python", "-I", *arguments)

    def _install(self, home: Path, required: Sequence[str | Path]) -> None:
        """Make the environment `home`, and install what is required with all that it requires, a full torch among it.

        Raises SmokeError, or the more exact error that the log explains, such as PackageIndexError.
        """
        site = self.site
        torch_downloads.fetch(site.store, self.torch, self.job, site)
        # A pin admits one torch; of those that the stable ABI's variant requires this one is named.
        named = [f"torch=={self.torch}"] if isinstance(self.job.variant, StableVariant) else []
        if not site.install(home, *required, *named).ok:
            raise install_error(self._what, site.shell.log)
        self._no_sdk(home)
        torch_bytecode.put(site, home, self.job.python)

    def _no_sdk(self, home: Path) -> None:
        """Raise SmokeError if torch's SDK, which is for builds alone, was installed in place of torch."""
        packages = variables.site_packages(home, self.job.python)
        done = self.site.shell.run("find", packages, "-maxdepth", "1", "-name", "*+sdk.dist-info")
        for line in done.tail:
            if line.endswith("+sdk.dist-info"):
                raise self._error(
                    f"torch's SDK was installed in place of torch: {line.rpartition('/')[2]}",
                    "remove it from the index, or the folder of UV_FIND_LINKS, that uv is configured for",
                )

    def _first_import(self, shell: Shell, name: str) -> _Torch:
        """Import `name` like all others; the same interpreter then describes torch, which takes seconds to load.

        If that fails, torch is imported alone: that torch is broken, or is the wrong one, explains more.
        """
        done = self._run_import(shell, name, _DESCRIBE_TORCH)
        if not (done.ok and _torch_line(done)):
            self._torch(self._python(shell, "-c", _DESCRIBE_TORCH))
            raise self._import_error(name, done)
        return self._torch(done)

    def _torch(self, done: Completed) -> _Torch:
        """Torch as it describes itself at the end of `done`. Raises SmokeError where it is absent, or the wrong one."""
        line = _torch_line(done)
        if not (done.ok and line):
            raise self._error(f"torch itself does not import: {done.exception}")
        torch = _described(line)
        if torch is None:
            raise self._error("what the import prints about torch is not what torch says of itself")
        if torch.version.endswith("+sdk"):
            raise self._error(f"this is not torch but its SDK, {torch.version}")
        # Vendors' builds of a minor are pre-releases, such as 2.8.0a0+vendor, and the pin is meant to take them.
        expected = f"=={self.torch}"
        if not SpecifierSet(expected).contains(torch.version, prereleases=True):
            raise self._error(f"the wheel brought torch {torch.version}, not {expected}")
        expected_cuda = self.job.variant.facts_of(self.torch).cuda or "None"  # str(torch.version.cuda)
        if self.project.settings.torch_flavours == "cuda" and torch.cuda != expected_cuda:
            raise self._error(
                f"torch {torch.version} has CUDA {torch.cuda}, where the variant has {expected_cuda}",
                "the index that uv is configured for serves another build; check UV_DEFAULT_INDEX and uv.toml",
            )
        return torch

    def _innermost(self) -> list[str]:
        """The imports without the packages of others: an interpreter that imports pkg.module imports pkg first."""
        innermost = []
        for name in self.project.imports:
            inside = [other for other in self.project.imports if other.startswith(f"{name}.")]
            if not inside:
                innermost.append(name)
        return innermost

    def _run_import(self, shell: Shell, name: str, then: str = "") -> Completed:
        """Import `name` in a fresh interpreter, and execute the statements `then` after it."""
        self.site.shell.say(f"import {name}")
        return self._python(shell, "-X", "faulthandler", "-c", f"import {name}{then}")

    def _import(self, shell: Shell, name: str) -> None:
        done = self._run_import(shell, name)
        if not done.ok:
            raise self._import_error(name, done)

    def _import_error(self, name: str, done: Completed) -> SmokeError:
        """The error for a module that does not import, with the exception of its traceback."""
        reason = done.exception
        next_step = "the log has the traceback"
        # A wheel does not carry torch's libraries. The loader finds them only once torch itself has been imported.
        unopened = _UNOPENED.search(reason)
        if unopened and unopened[1] in policy().torch:
            next_step = "import torch in the package's __init__.py first, or set import-torch-first = true"
        owner = provider(unopened[1], self.project.settings.external_libraries) if unopened else ""
        if owner == SYSTEM:
            next_step = "external-libraries says that the system brings it: install it where the tests run"
        elif owner:
            next_step = f"{owner} brings it: import its package first, or link with a run path such as $ORIGIN/../lib"
        return self._error(f"import {name} fails in a fresh interpreter: {reason}", next_step)

    def _refusal(self, wheel: Path) -> str | None:
        """Check that the resolver refuses the wheel beside another minor's torch, because of the wheel's pin.

        `wheel` is its path at the site. Returns that torch, such as "torch 2.10"; None for a project with one minor.
        """
        other = neighbour(self.project, self.job.variant)
        if other is None:
            return None
        self.site.shell.say(f"torch {other.torch} must be refused")
        site = self.site
        # Without the wheels behind the one name: their own bounds may refuse the other torch too, and uv names only the
        # first contradiction that it meets. It meets one between its arguments before it looks for what they require.
        # For an empty folder: uv asks the interpreter of an environment, which executes .pth files of what is installed
        # there.
        empty = site.store.environment(f"{self.job.id}-refused")
        try:
            done = site.shell.run(
                site.uv, "pip", "install", "--dry-run", "--python", site.python.path, "--target", empty,
                wheel, f"torch{other.pin}",
            )  # fmt: skip
        finally:
            site.remove(empty)
        if done.ok:
            raise self._error(f"the resolver accepts it together with torch {other.torch}")

        # An index that is out of reach refuses too, and so may what the wheel requires.
        text = " ".join(" ".join(done.tail).split())  # uv wraps its lines
        name, pin = re.escape(canonicalize_name(self.job.distribution)), re.escape(self.job.variant.pin)
        for_the_pin = re.search(rf"(?<!\S){name}==\S+ depends on torch{pin}", text)
        if not ("unsatisfiable" in text and for_the_pin):
            error = diagnose(self.job.id, self.site.shell.log)
            if type(error) is BuildError:
                raise self._error(f"the resolver refuses it, but for another reason: {text}")
            raise error
        return f"torch {other.torch}"


def metadata_problems(wheel: Wheel, job: Job, python_version: str) -> list[str]:
    """How the wheel's METADATA differs from the job's name, version, torch pin and CPythons, a sentence each.

    `python_version` is the interpreter's full version, since requires-python may name patch releases.
    """
    problems = []
    if canonicalize_name(wheel.metadata["Name"]) != canonicalize_name(job.distribution):
        problems.append(f"Name is {wheel.metadata['Name']}, not {job.distribution}")
    if wheel.metadata["Version"] != job.version:
        problems.append(
            f"Version is {wheel.metadata['Version']}, not {job.version}: the build computes it; set version to what "
            "it is in [tool.torch-build-farm], or in environment the variable that the build reads"
        )
    pins = wheel.requirements("torch")
    if [requirement.specifier for requirement in pins] != [SpecifierSet(job.variant.pin)]:
        required = ", ".join(map(str, pins)) or "nothing"
        problems.append(f"Requires-Dist asks for {required}, not torch{job.variant.pin}")
    if not wheel.requires_python.contains(python_version, prereleases=True):
        problems.append(f"Requires-Python {wheel.requires_python} leaves out {python_version}")
    # A wheel of the stable ABI serves later torch minors too, and so their CPythons.
    next_python = f"3.{max(job.variant.cpython).minor + 1}"
    if not isinstance(job.variant, StableVariant) and wheel.requires_python.contains(next_python):
        problems.append(f"Requires-Python {wheel.requires_python} admits CPythons that torch has no wheel for")
    return problems


def neighbour(project: Project, variant: Variant) -> Variant | None:
    """The variant whose torch must be refused: the next minor's, else the one before."""
    # Of a flavour those of its minor: another flavour of one minor is not refused by resolvers.
    own = variant.torch.of_default_index
    project = project.on(variant.platform)
    later = [minor for minor in project.variants if minor > own]
    earlier = [minor for minor in project.variants if minor < own]
    if later:
        return project.variants[later[0]]
    return project.variants[earlier[-1]] if earlier else None


@dataclass(frozen=True)
class _Torch:
    """An installed torch: `version` and `cuda` (torch.version.cuda) as it names them, and the devices it can use."""

    version: str
    cuda: str
    devices: tuple[str, ...]


def _described(line: str) -> _Torch | None:
    """Torch by a line of _DESCRIBE_TORCH; None for another line that begins alike, which any package may print."""
    try:
        document = json.loads(line)
        version, cuda, devices = document["torch"], document["cuda"], document["devices"]
        read_version(version)
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    if not isinstance(devices, list) or not all(isinstance(text, str) and is_utf8(text) for text in (cuda, *devices)):
        return None
    return _Torch(version, cuda, tuple(devices))


def _torch_line(done: Completed) -> str:
    """The line of _DESCRIBE_TORCH in what a command printed; empty if it is not there."""
    # From the end: the package's own import comes first and may print what it likes.
    for line in reversed(done.tail):
        if line.startswith('{"torch"'):
            return line
    return ""
