"""The last check of a release: users who install from the index get the published files, and the package imports.

Resolving and installing run nothing of the package. Its import does, so that happens where no credentials are in reach:
isolated from the process that publishes, or else by `check`, in a process that has none.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import tomlkit
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import Version
from pypi_simple import PYPI_SIMPLE_ENDPOINT

from torch_build_farm.core import machine, toml, tools
from torch_build_farm.core.errors import NoPythonError, PublishError
from torch_build_farm.core.home import home
from torch_build_farm.core.package_index import PackageIndex
from torch_build_farm.core.process import Completed, Shell
from torch_build_farm.core.store import TorchStore
from torch_build_farm.core.urls import public
from torch_build_farm.core.versions import CPython, Minor
from torch_build_farm.engines.base import Interpreter
from torch_build_farm.engines.interpreters import find_interpreters
from torch_build_farm.engines.isolation import Isolation
from torch_build_farm.engines.shared_files import share
from torch_build_farm.pipeline.shared_wheels import serves
from torch_build_farm.project.settings import Project
from torch_build_farm.project.variant import Variant
from torch_build_farm.wheels import driver, platforms
from torch_build_farm.wheels.relocate import outermost

_LARGEST_LOCK = 16 << 20  # characters of a lock file that uv wrote
# Variables that hold credentials or lead to some, by their names.
_SECRET = re.compile(
    r"^TWINE_|^ACTIONS_ID_TOKEN_|^PYPI_|TOKEN|PASSWORD|SECRET|CREDENTIAL|API_?KEY|JWT|SSH_AUTH_SOCK", re.IGNORECASE
)
_SECRET_FILES = (".pypirc", ".netrc")  # in the home folder


@dataclass(frozen=True)
class Release:
    """What users get: a version of a project on an index, with the SHA-256 of each published file by its name."""

    project: Project
    version: str
    index: PackageIndex
    expected: Mapping[str, str]

    def files(self, variant: Variant) -> list[str]:
        """The variant's wheels of this version, for its platform."""
        name = canonicalize_name(self.project.distribution(variant))
        wheels = []
        for file in self.expected:
            try:
                distribution, version, _, _ = parse_wheel_filename(file)
            except InvalidWheelFilename:  # an sdist from before the farm
                continue
            is_variant = distribution == name and version == Version(self.version)
            if is_variant and platforms.installs_on(file, variant.platform):
                wheels.append(file)
        return wheels


@dataclass(frozen=True)
class Installation:
    """NAME[torchNN]==VERSION, installed from the index for `python`.

    `not_imported` says why its import was left out; empty where it was imported. What is `for_another_machine` was
    resolved and downloaded alone.
    """

    what: str
    python: CPython
    not_imported: str
    for_another_machine: bool = False

    def line(self, target: str) -> str:
        """What people read of an installation that was imported, or is for another machine."""
        if self.for_another_machine:
            return f"downloaded from {target}: {self.what}, not imported: {self.not_imported}"
        return f"installed from {target}: {self.what}, imports"


def _farm_names(project: Project, variant: Variant) -> list[str]:
    """The distributions that an installation of NAME[torchNN] takes from the farm, the plain name first."""
    return [project.settings.name, project.auto_name, project.select_name, project.distribution(variant)]


def _project_file(release: Release, variant: Variant, minor: Minor, python: CPython) -> str:
    """A project that depends on NAME[torchNN]; the farm's names come from the index, all others from uv's default."""
    names = _farm_names(release.project, variant)
    sources = {}
    for name in names:
        sources[name] = {"index": "target"}
    plain_name, *others = names
    indexes = [{"name": "target", "url": public(release.index.url or PYPI_SIMPLE_ENDPOINT), "explicit": True}]
    if variant.index:
        # As somebody has it who uses this flavour of torch.
        indexes.append({"name": "torch", "url": variant.index, "explicit": True})
        sources["torch"] = {"index": "torch"}
        others.append("torch")
    document = {
        "project": {
            "name": "check-of-a-release",
            "version": "0",
            "requires-python": f"=={python.release}.*",
            # uv applies sources only to dependencies that the project itself declares (astral-sh/uv#8253).
            "dependencies": [f"{plain_name}[{minor.tag}]=={release.version}", *others],
        },
        "tool": {
            "uv": {
                "package": False,
                # uv would look for the wheels of all platforms, also of those that the release has none for.
                "environments": [platforms.marker([platforms.of_machine(variant.platform)])],
                "index": indexes,
                "sources": sources,
            }
        },
    }
    return tomlkit.dumps(document)


def _environment(store: TorchStore, index: PackageIndex, home: Path) -> dict[str, str]:
    """Variables for uv. The index is named "target" in _project_file, and so are those for its credentials."""
    env = tools.environment(store.uv_cache, home)
    parts = urlsplit(index.url)
    if parts.username:
        env["UV_INDEX_TARGET_USERNAME"] = unquote(parts.username)
    if parts.password:
        env["UV_INDEX_TARGET_PASSWORD"] = unquote(parts.password)
    env["UV_PROJECT_ENVIRONMENT"] = str(home / "env")
    return env


def _foreign(lock: Path, release: Release, variant: Variant) -> list[str]:
    """Which of the farm's names in a lock file do not come from the index, or are not the published files.

    One sentence each.
    """
    url = public(release.index.url or PYPI_SIMPLE_ENDPOINT).rstrip("/")
    names = [canonicalize_name(name) for name in _farm_names(release.project, variant)]
    problems = []
    not_seen = set(names)
    for package in toml.loads(lock.read_text("utf-8"), limit=_LARGEST_LOCK)["package"]:
        name = package["name"]
        if name not in names:
            continue
        if str(package["source"].get("registry", "")).rstrip("/") != url:
            problems.append(f"{name} comes from {package['source']}")
        # All of them, also those for other CPythons: installers choose, and a build number makes one the first choice.
        for file, digest in _locked_files(package):
            if file not in release.expected:
                problems.append(f"{file} was not published by this project")
                continue
            not_seen.discard(name)
            if digest and digest != release.expected[file]:
                problems.append(f"{file} has the SHA-256 {digest}, not {release.expected[file]}")
    for name in sorted(not_seen):
        problems.append(f"{name} is not what was published")
    return problems


def _locked_files(package: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The files of a package in a lock file, each with its SHA-256, empty where the index states none."""
    for entry in _entries(package):
        algorithm, _, digest = str(entry.get("hash", "")).partition(":")
        yield _file_name(entry), digest if algorithm == "sha256" else ""


def _entries(package: Mapping[str, Any]) -> list[Any]:
    entries = list(package.get("wheels", ()))
    if "sdist" in package:
        entries.append(package["sdist"])
    return entries


def _file_name(entry: Mapping[str, Any]) -> str:
    return unquote(str(entry.get("filename") or entry["url"].rsplit("/", 1)[-1].partition("#")[0]))


def _write_missing_digests(lock: Path, release: Release, variant: Variant) -> None:
    """Write the SHA-256 of the published files into a lock file where the index states none: uv then compares them."""
    names = [canonicalize_name(name) for name in _farm_names(release.project, variant)]
    document = tomlkit.parse(lock.read_text("utf-8")).unwrap()
    for package in document["package"]:
        if package["name"] not in names:
            continue
        for entry in _entries(package):
            if not str(entry.get("hash", "")).startswith("sha256:"):
                entry["hash"] = f"sha256:{release.expected[_file_name(entry)]}"
    lock.write_text(tomlkit.dumps(document), "utf-8")


def credentials_in_reach(index: PackageIndex) -> list[str]:
    """What this process has that may be a credential, one short sentence each."""
    users = home() or Path("/nonexistent")
    reasons = [f"the variable {name}" for name in sorted(os.environ) if _SECRET.search(name) and os.environ[name]]
    reasons += [f"the file ~/{name}" for name in _SECRET_FILES if (users / name).exists()]
    parts = urlsplit(index.url)
    if parts.username or parts.password:  # some indexes take a token as the name
        reasons.append("the index's URL")
    return reasons


def check_variants(
    release: Release, variants: Iterable[Variant], *, store: TorchStore, shell: Shell, isolated_only: bool
) -> Iterator[Installation]:
    """Check those of `variants` that the release has wheels of, one after the other, as `check` does.

    Raises NoPythonError if no CPython on this machine can install one of them.
    """
    interpreters = find_interpreters(tools.environment(store.uv_cache, store.root))
    for variant in variants:
        files = release.files(variant)
        if not files:  # this minor is not part of the release
            continue
        if variant.platform != machine.running() and not any(map(platforms.of_wheel, files)):
            continue  # they are for every machine, and are checked for this one
        pythons = [
            python
            for python in variant.cpython
            if python in interpreters and any(serves(file, python) for file in files)
        ]
        if not pythons:
            name = release.project.distribution(variant)
            raise NoPythonError(f"published, but no CPython here can install {name}", where=", ".join(files))
        running = CPython.running()
        python = running if running in pythons else max(pythons)
        # The wheel of the stable ABI serves several minors: as in its smoke test, the oldest and the newest.
        minors = dict.fromkeys(variant.facts_of(version).torch for version in variant.tested_with)
        for minor in minors:
            yield check(
                release,
                variant,
                minor,
                python=python,
                interpreter=interpreters[python],
                store=store,
                shell=shell,
                isolated_only=isolated_only,
            )


def check(
    release: Release, variant: Variant, minor: Minor, *,
    python: CPython, interpreter: Interpreter, store: TorchStore, shell: Shell, isolated_only: bool,
) -> Installation:  # fmt: skip
    """Install NAME[torchNN] from the index into a fresh environment and import it, isolated from this process.

    `variant` serves `minor`. Of a variant for another machine than this one the farm's wheels are downloaded, and
    nothing is imported. Where this machine isolates nothing: with `isolated_only` the import is left out,
    otherwise it runs in a process without this one's variables. Raises PublishError if the index has something
    else, if uv does not resolve or install it, if an import fails, or if it could only run where credentials are in
    reach.
    """
    home = store.environment(f"{minor.tag}-published")
    # A farm that was killed may have left it behind.
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    uv_shell = replace(shell, env=_environment(store, release.index, home), cwd=home)
    what = f"{release.project.settings.name}[{minor.tag}]=={release.version}"
    is_foreign = variant.platform != machine.running()
    if is_foreign:
        what += f" for {variant.platform.words}"
    try:
        (home / "pyproject.toml").write_text(_project_file(release, variant, minor, python), "utf-8")
        # --refresh: uv's cache may still hold the index as it was before the upload.
        _do(uv_shell, f"{what} does not resolve", tools.uv(), "lock", "--python", interpreter.path, "--refresh")
        problems = _foreign(home / "uv.lock", release, variant)
        if problems:
            raise PublishError(f"{what} is not what was published: " + "; ".join(problems), where=str(shell.log))
        _write_missing_digests(home / "uv.lock", release, variant)

        # The environment's own interpreter and settings, before a wheel can replace them.
        environment = home / "env"
        _do(uv_shell, f"{what}: no environment", tools.uv(), "venv", "--python", interpreter.path, environment)
        root = home / "root"
        root.mkdir()
        isolation = Isolation.of(environment, root, replace(shell, cwd=home))
        # --frozen installs exactly what was checked in the lock file; of the farm's names what the index has by now,
        # and not what uv's cache has of an earlier check.
        anew = [f"--refresh-package={name}" for name in _farm_names(release.project, variant)]
        sync: list[str | Path] = [tools.uv(), "sync", "--frozen", *anew, "--python", interpreter.path]
        if is_foreign:
            _do(uv_shell, f"{what} cannot be downloaded", *sync, *_of_farm_alone(home / "uv.lock", release, variant))
            return Installation(what, python, f"this machine is {machine.running().words}", for_another_machine=True)
        _do(uv_shell, f"{what} does not install", *sync)

        # Isolated, the package sees all files read-only. Otherwise it must not change those that are the store's too.
        shared = share(store, home, what, shell.log)
        try:
            not_imported = _import(release, what, environment, isolation, isolated_only=isolated_only)
        except BaseException:
            shared.remove_edited()
            raise
        shared.compare()
    finally:
        shutil.rmtree(home, ignore_errors=True)
    return Installation(what, python, not_imported)


def _of_farm_alone(lock: Path, release: Release, variant: Variant) -> list[str]:
    """Options of `uv sync` for another machine: the farm's wheels for it, without the gigabytes of its torch."""
    farm_names = {canonicalize_name(name) for name in _farm_names(release.project, variant)}
    packages = toml.loads(lock.read_text("utf-8"), limit=_LARGEST_LOCK)["package"]
    left_out = [package["name"] for package in packages if package["name"] not in farm_names]
    # The newest glibc that uv names: which one a wheel needs is written in its tag, and was checked when it was made.
    return [
        f"--python-platform={variant.platform.name}-manylinux_2_40",
        *(f"--no-install-package={name}" for name in left_out),
    ]


def _import(release: Release, what: str, environment: Path, isolation: Isolation, *, isolated_only: bool) -> str:
    """Import the installed package; returns why it was not imported, empty where it was. Raises PublishError."""
    why_not = isolation.why_not()
    if why_not and isolated_only:
        return why_not
    if why_not:
        reasons = credentials_in_reach(release.index)
        if reasons:
            raise PublishError(
                f"{what}: its import would see {', '.join(reasons)}",
                where=f"this machine isolates no process: {why_not}",
                next_step="run `check` where no credentials are: without these, or in a container",
            )
    run = isolation.run_beside if why_not else isolation.run
    # -I: neither the current folder nor the caller's variables may stand in for what was installed.
    python = (environment / "bin" / "python", "-I", "-c")
    beside = _beside_driver(release.project, environment, lambda statement: run(*python, statement).ok)
    for name in release.project.imports:
        done = run(*beside, *python, f"import {name}")
        if not done.ok:
            raise _failed(f"{what}: import {name} fails", done, isolation.shell)
    return ""


def _beside_driver(project: Project, environment: Path, runs: Callable[[str], bool]) -> list[str]:
    """The words before a command that imports the packages where NVIDIA's driver is not: stubs stand in for it.

    `runs` says whether a statement of Python succeeds in the environment.
    """
    libraries = []
    for package in outermost(project.settings.packages):
        for path in environment.glob(f"lib/python*/site-packages/{package}/**/*.so*"):
            if path.is_file() and not path.is_symlink():
                libraries.append(path)
    stubs = driver.import_stubs((path.read_bytes() for path in libraries), machine.running())
    folder = environment / "driver-stubs"
    return driver.beside(folder) if driver.stand_in(stubs, folder, runs) else []


def _do(shell: Shell, otherwise: str, *command: str | Path) -> None:
    """Run a command. Raises PublishError that begins with `otherwise` if it fails."""
    done = shell.run(*command)
    if not done.ok:
        raise _failed(otherwise, done, shell)


def _failed(what: str, done: Completed, shell: Shell) -> PublishError:
    reason = done.last_line or "no reason given"
    return PublishError(f"{what}: {reason}", where=str(shell.log), next_step="the log has the whole output")
