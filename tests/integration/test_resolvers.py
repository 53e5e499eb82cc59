"""What users type, with the resolvers that they have, on an index that also has upstream's older wheels of the name.

torch is a stand-in here, and so is the code of the variants; relocation, dispatcher and the wheels behind the one name are
the farm's own. At the end the table is printed.
"""

from __future__ import annotations

import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from tests.family import family, make_wheel, project, torch, variant
from tests.index import Index
from torch_build_farm.core import tools as toolbox
from torch_build_farm.core.versions import CPython
from torch_build_farm.wheels import one_name

NAME = "pymomentum-gpu"
OWN = project(NAME, "pymomentum")
CODE = """
from pymomentum import code
try:
    from torch import __version__ as torch
except ImportError:
    torch = "without torch"
print(code.MINOR, code.VERSION, torch)
"""
V = "0.1.115.post0"
VERSIONS = ("0.1.115", "0.1.115.post0", "0.1.115.post13", "0.1.115.1")
TORCHES = ("2.8.0", "2.9.0", "2.9.1", "2.10.0", "2.16.0", "2.99.0")
UPSTREAM = {"0.1.110.post0": ("Requires-Dist: torch>=2.8.0,<2.9",), "0.1.114.post0": ()}
TAG = f"cp{sys.version_info.major}{sys.version_info.minor}-none-linux_{platform.machine()}"
# What pip says, and uv.
REFUSED = ("ResolutionImpossible", "No solution found", "No matching distribution")


class World:
    """An index with torch, upstream's old wheels (yanked, as PUBLISHING says, unless told not to), and our releases."""

    def __init__(self, folder: Path, yanked: bool = True) -> None:
        (folder / "index").mkdir(parents=True)
        self.folder, self.index, self.own = folder, Index(folder / "index"), OWN
        for version in TORCHES:
            self.index.add_wheel(torch(folder / "made", version))
        for version, fields in UPSTREAM.items():
            code = f"MINOR, VERSION = 'upstream', {version!r}\n"
            made = make_wheel(folder / "made", NAME, version, {"pymomentum/code.py": code}, *fields)
            self.index.add_wheel(made)
            if yanked:
                self.index.yank(made.name)

    def variant(self, version: str, minor: str) -> Path:
        code = {"pymomentum/code.py": f"import torch\nMINOR, VERSION = {minor!r}, {version!r}\n"}
        more = ("Provides-Extra: plot", 'Requires-Dist: torch>=2.8 ; extra == "plot"')
        # A wheel for one platform, as every real variant is: requirements on it have a marker.
        made = variant(self.folder / "made", self.own, minor, version, code, *more, tag=TAG)
        self.index.add_wheel(made)
        return made

    def release(self, version: str, *minors: str, retired: dict[str, str] | None = None) -> None:
        for minor in minors:
            model = self.variant(version, minor)
        last = {**(retired or {}), **dict.fromkeys(minors, version)}
        for made in one_name.write(family(self.own, model, last), self.folder / "made"):
            self.index.add_wheel(made)

    def files(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.folder.glob("index/*/*.whl")}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("world"))
    for version in VERSIONS:
        made.release(version, "2.8", "2.9", "2.10")
    yield made
    made.index.close()


@dataclass
class User:
    """Somebody with an empty environment, one resolver, and the index."""

    home: Path
    resolver: str
    tool: Path  # pip's own environment, or uv
    url: str

    def __post_init__(self) -> None:
        self.uv("venv", "--clear", "--python", f"{CPython.running()}", self.home)

    @property
    def env(self) -> dict[str, str]:
        left = {k: v for k, v in os.environ.items() if not k.startswith(("PIP_", "UV_", "VIRTUAL_ENV"))}
        return {
            **left, "PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": self.url, "PIP_NO_CACHE_DIR": "1",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1", "UV_NO_CONFIG": "1", "UV_DEFAULT_INDEX": self.url,
            "UV_NO_CACHE": "1", "UV_PYTHON_DOWNLOADS": "never", "VIRTUAL_ENV": str(self.home),
            "PATH": f"{self.home / 'bin'}:{os.environ['PATH']}",
        }  # fmt: skip

    def call(self, *words: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(word) for word in words], env=self.env, capture_output=True, text=True, check=False, cwd=cwd
        )

    def uv(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        return self.call(toolbox.uv(), *words)

    def install(self, *wanted: str, constraint: str = "") -> subprocess.CompletedProcess[str]:
        limits = self.home.parent / "constraints.txt"
        limits.write_text(f"{constraint}\n")
        limit: list[str | Path] = ["-c", limits] if constraint else []
        if self.resolver == "uv lock":
            return self._lock(list(wanted), constraint)
        if self.resolver == "uv":
            return self.uv("pip", "install", *limit, *wanted)
        return self.call(self.tool / "bin" / "python", "-m", "pip", "--python", self.home, "install", *limit, *wanted)

    def _lock(self, wanted: list[str], constraint: str) -> subprocess.CompletedProcess[str]:
        folder, named = self.home.parent / "project", [word for word in wanted if not word.startswith("-")]
        folder.mkdir(exist_ok=True)
        python = CPython.running()
        (folder / "pyproject.toml").write_text(
            f"[project]\nname = 'user'\nversion = '0'\nrequires-python = '=={python.release}.*'\n"
            f"dependencies = {named!r}\n[tool.uv]\nconstraint-dependencies = {[constraint] if constraint else []!r}\n"
        )
        done = self.call(toolbox.uv(), "lock", *(word for word in wanted if word == "--upgrade"), cwd=folder)
        return self.call(toolbox.uv(), "sync", "--frozen", "--active", cwd=folder) if done.returncode == 0 else done

    def uninstall(self, name: str) -> None:
        command: list[str | Path] = [toolbox.uv(), "pip"] if "uv" in self.resolver else [self.tool / "bin/python", "-m", "pip", "--python", self.home]  # fmt: skip
        assert self.call(*command, "uninstall", *(() if "uv" in self.resolver else ("-y",)), name).returncode == 0

    def gets(self) -> str:
        """Minor and version of the code that an import gives, and torch's version."""
        done = self.call(self.home / "bin" / "python", "-I", "-c", CODE)
        return done.stdout.strip() if done.returncode == 0 else done.stderr.strip().splitlines()[-1]


NAMES = ["pip", "pip 23.2", "uv", "uv lock"]
# The default run asks the newest pip and uv; the older pip and a lock file take minutes more.
RESOLVERS = [pytest.param(name, marks=[pytest.mark.resolvers] if " " in name else []) for name in NAMES]


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Each pip in an environment of its own, from the real index, the newest and an old one."""
    found = {"uv": toolbox.uv(), "uv lock": toolbox.uv()}
    for name, requirement in (("pip", "pip"), ("pip 23.2", "pip==23.2")):
        home = tmp_path_factory.mktemp("pip") / "env"
        env = {k: v for k, v in os.environ.items() if not k.startswith("PIP_")}
        for words in (["venv", home], ["pip", "install", "--python", home, requirement]):
            subprocess.run([str(toolbox.uv()), *map(str, words)], env=env, check=True, capture_output=True)
        found[name] = home
    return found


@pytest.fixture(params=RESOLVERS)
def user(request: pytest.FixtureRequest, world: World, tools: dict[str, Path], tmp_path: Path) -> User:
    return User(tmp_path / "home", request.param, tools[request.param], world.index.url)


@pytest.fixture(scope="module", autouse=True)
def table(request: pytest.FixtureRequest) -> Iterator[dict[str, dict[str, str]]]:
    rows: dict[str, dict[str, str]] = {}
    yield rows
    lines = [f"| user does | {' | '.join(NAMES)} |", f"|---{'|---' * len(NAMES)}|"]
    lines += [f"| {row} | {' | '.join(found.get(name, '-') for name in NAMES)} |" for row, found in rows.items()]
    plugins = request.config.pluginmanager
    with plugins.getplugin("capturemanager").global_and_fixture_disabled():
        plugins.getplugin("terminalreporter").write("\n" + "\n".join(lines) + "\n")


@pytest.fixture
def note(table: dict[str, dict[str, str]], user: User):  # type: ignore[no-untyped-def]
    def write(row: str, found: str) -> None:
        table.setdefault(row, {})[user.resolver] = found

    return write


def good(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, done.stdout + done.stderr


def test_an_extra_in_an_empty_environment(user: User, note) -> None:  # type: ignore[no-untyped-def]
    good(user.install(f"{NAME}[torch29]=={V}"))
    note(f"`{NAME}[torch29]`, empty env", user.gets())
    assert user.gets() == f"2.9 {V} 2.9.1"


def test_the_plain_name_in_an_empty_environment(user: User, note) -> None:  # type: ignore[no-untyped-def]
    good(user.install(NAME))
    note(f"`{NAME}`, empty env", user.gets())
    assert user.gets() == f"2.10 {VERSIONS[-1]} 2.10.0"


@pytest.mark.parametrize("way", ["command", "constraint"])
def test_with_a_torch_pinned(user: User, note, way: str) -> None:  # type: ignore[no-untyped-def]
    if way == "command":
        good(user.install(NAME, "torch==2.8.*"))
    else:
        good(user.install(NAME, constraint="torch==2.8.*"))
    note(f'plain, `"torch==2.8.*"` in the {way}', user.gets())
    assert user.gets() == f"2.8 {VERSIONS[-1]} 2.8.0"


@pytest.mark.parametrize("user", RESOLVERS[:3], indirect=True)  # a lock knows no installed torch
def test_with_a_torch_installed(user: User, note) -> None:  # type: ignore[no-untyped-def]
    good(user.install("torch==2.8.0"))
    good(user.install(NAME))
    note("plain, torch 2.8 installed", user.gets())
    if user.resolver == "uv":
        assert user.gets() == f"2.8 {VERSIONS[-1]} 2.8.0"
    else:  # pip cannot be told to keep what is installed, but what it brings fits together
        assert user.gets() == f"2.10 {VERSIONS[-1]} 2.10.0"


@pytest.mark.parametrize("user", RESOLVERS[:3], indirect=True)
def test_the_documented_line_for_pip(user: User, note) -> None:  # type: ignore[no-untyped-def]
    good(user.install("torch==2.9.0"))
    asked = user.call(user.home / "bin/python", "-c", "from importlib.metadata import version; print(version('torch'))")
    good(user.install(NAME, f"torch=={asked.stdout.strip()}"))
    note('`"torch==$(...)"`, torch 2.9.0 installed', user.gets())
    assert user.gets() == f"2.9 {VERSIONS[-1]} 2.9.0"


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("operator", ["==", "~="])
@pytest.mark.parametrize("pinned", ["", "torch==2.8.*"])
def test_a_version(user: User, note, version: str, operator: str, pinned: str) -> None:  # type: ignore[no-untyped-def]
    good(user.install(f"{NAME}{operator}{version}", *filter(None, [pinned])))
    wanted = max(SpecifierSet(f"{operator}{version}").filter(VERSIONS), key=Version)
    note(f"`{operator}{version}` {pinned}", user.gets())
    assert user.gets() == (f"2.8 {wanted} 2.8.0" if pinned else f"2.10 {wanted} 2.10.0")


CONTRADICTIONS = {
    f"`{NAME}[torch28,torch29]`": [f"{NAME}[torch28,torch29]"],
    f"`{NAME}[torch28]` `torch==2.9.*`": [f"{NAME}[torch28]", "torch==2.9.*"],
    f"`{NAME}` `torch==2.99.*`": [NAME, "torch==2.99.*"],
}


@pytest.mark.parametrize("row", CONTRADICTIONS)
def test_contradictions_are_refused(user: User, note, row: str) -> None:  # type: ignore[no-untyped-def]
    done = user.install(*CONTRADICTIONS[row])
    said = done.stdout + done.stderr
    note(row, "refused" if done.returncode else user.gets())
    assert done.returncode != 0
    assert any(words in said for words in REFUSED), said
    assert "torch" in said


@pytest.mark.parametrize("row", CONTRADICTIONS)
def test_what_gets_in_where_upstream_is_not_yanked(user: User, note, row: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """Recorded, and why PUBLISHING says to yank: without extras and torch, upstream's wheels fit everything."""
    old = World(tmp_path / "old", yanked=False)
    old.release(V, "2.8", "2.9")
    try:
        done = User(user.home, user.resolver, user.tool, old.index.url).install(*CONTRADICTIONS[row])
    finally:
        old.index.close()
    found = "refused" if done.returncode else user.gets()
    note(f"{row}, upstream's not yanked", found)
    assert found == "refused" or "upstream" in found


def test_a_retired_minor(user: User, note, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    new = World(tmp_path / "new")
    new.release("0.1.116", "2.8", "2.9")
    new.release("0.1.117", "2.9", "2.10", retired={"2.8": "0.1.116"})
    try:
        user = User(user.home, user.resolver, user.tool, new.index.url)
        good(user.install(NAME, "torch==2.8.*"))
        note("2.8 no longer built at the next version, `torch==2.8.*`", user.gets())
        assert user.gets() == "2.8 0.1.116 2.8.0"
    finally:
        new.index.close()


@pytest.mark.parametrize("wanted", [[f"{NAME}[torch216]"], [NAME, "torch==2.16.*"]], ids=["extra", "pin"])
def test_a_new_torch(user: User, note, tmp_path: Path, wanted: list[str]) -> None:  # type: ignore[no-untyped-def]
    """One variant and one rung serve the version that is published; no published file changes."""
    new = World(tmp_path / "new")
    try:
        new.release(V, "2.9", "2.10")
        user = User(user.home, user.resolver, user.tool, new.index.url)
        assert user.install(*wanted).returncode != 0, "not before there is a variant"
        before = new.files()
        made = family(OWN, new.variant(V, "2.16"), {"2.16": V})
        new.index.add_wheel(one_name.write_rung(made, next(iter(made.last)), new.folder / "made"))
        assert {name: new.files()[name] for name in before} == before
        assert len(new.files()) == len(before) + 2
        good(user.install(*wanted))
        note(f"2.16 appears: `{' '.join(wanted)}`", user.gets())
        assert user.gets() == f"2.16 {V} 2.16.0"
    finally:
        new.index.close()


def test_over_upstreams_last_single_wheel(user: User, note) -> None:  # type: ignore[no-untyped-def]
    good(user.install(f"{NAME}==0.1.114.post0", "torch==2.9.*"))
    assert user.gets() == "upstream 0.1.114.post0 2.9.1"
    good(user.install("--upgrade", f"{NAME}[torch29]"))
    note(f"upstream's wheel, then `-U {NAME}[torch29]`", user.gets())
    assert user.gets() == f"2.9 {VERSIONS[-1]} 2.9.1"


def test_a_variant_by_its_own_name_over_upstreams_last_single_wheel(user: User, note) -> None:  # type: ignore[no-untyped-def]
    """Upstream's wheel is of the same name: it must not pass for the dispatcher."""
    good(user.install(f"{NAME}==0.1.114.post0", "torch==2.9.*"))
    good(user.install(f"{NAME}-torch29"))
    note(f"upstream's wheel, then `{NAME}-torch29`", user.gets())
    assert user.gets() == f"2.9 {VERSIONS[-1]} 2.9.1"


@pytest.mark.parametrize("wanted", [f"{NAME}[torch29]==0.2rc1", f"{NAME}-torch29==0.2rc1"])
def test_a_pre_release(user: User, note, tmp_path: Path, wanted: str) -> None:  # type: ignore[no-untyped-def]
    """It has no rungs; the extra and the variant's name work, and nobody gets it unasked."""
    new = World(tmp_path / "new")
    new.release("0.1.115", "2.8", "2.9")
    new.release("0.2rc1", "2.8", "2.9")
    try:
        user = User(user.home, user.resolver, user.tool, new.index.url)
        good(user.install(wanted))
        note(f"`{wanted}`", user.gets())
        assert user.gets() == "2.9 0.2rc1 2.9.1"
        other = User(tmp_path / "other" / "home", user.resolver, user.tool, new.index.url)
        good(other.install(NAME))
        assert other.gets() == "2.9 0.1.115 2.9.1"
    finally:
        new.index.close()


def test_one_variant_after_the_other(user: User, note) -> None:  # type: ignore[no-untyped-def]
    found = []
    for extra in ("torch28", "torch29"):
        good(user.install(f"{NAME}[{extra}]"))
        found.append(user.gets())
    if user.resolver != "uv lock":  # whose sync removes what is not in the lock
        user.uninstall(f"{NAME}-torch28")
    found.append(user.gets())
    note("`[torch28]`, `[torch29]`, uninstall -torch28", "; ".join(one.split()[0] for one in found))
    assert [one.split()[0] for one in found] == ["2.8", "2.9", "2.9"]


@pytest.mark.parametrize("user", RESOLVERS[:3], indirect=True)  # lines for pip and for uv
@pytest.mark.parametrize("other", ["2.9.0", "2.99.0"])
def test_what_the_guard_prints(user: User, note, other: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """Typed as printed, in a shell; for a minor without a variant after one was published."""
    new = World(tmp_path / "new")
    try:
        new.release(V, "2.8", "2.9", "2.98")
        user = User(user.home, user.resolver, user.tool, new.index.url)
        good(user.install(f"{NAME}[torch28]"))
        good(user.uv("pip", "install", f"torch=={other}"))
        done = user.call(user.home / "bin" / "python", "-I", "-c", CODE)
        printed = dict(re.findall(r"with (pip|uv): +(.+)", done.stderr))
        assert done.returncode == 1
        assert f"has no variant for torch {other}" in done.stderr
        if other == "2.99.0":
            made = family(OWN, new.variant(V, "2.99"), {"2.99": V})
            new.index.add_wheel(one_name.write_rung(made, next(iter(made.last)), new.folder / "made"))
        command = printed[user.resolver.split()[0]]
        (user.home / "bin" / "pip").unlink(missing_ok=True)
        (user.home / "bin" / "pip").write_text(
            f'#!/bin/sh\nexec {user.tool}/bin/python -m pip --python {user.home} "$@"\n'
        )
        (user.home / "bin" / "pip").chmod(0o755)
        (user.home / "bin" / "uv").symlink_to(toolbox.uv())
        good(user.call("sh", "-c", command))
        note(f"torch {other} found: `{shlex.split(command)[-1]}` as printed", user.gets())
        assert user.gets() == f"{other[:-2]} {V} {other}"
    finally:
        new.index.close()


# A project half-way: variants for torch 2.8 and 2.9, and one wheel of torch's stable ABI from 2.10 on.
HALF_WAY = project(NAME, "pymomentum", stable_abi="2.10")


@pytest.fixture(scope="module")
def half_way(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Its version 0.1.116 has the stable wheel; 0.1.115 still had a variant for each minor."""
    made = World(tmp_path_factory.mktemp("half-way"))
    made.release("0.1.115", "2.8", "2.9", "2.10")
    made.own = HALF_WAY
    made.release("0.1.116", "2.8", "2.9", "2.10")
    yield made
    made.index.close()


@pytest.fixture
def stable_user(user: User, half_way: World) -> User:
    return User(user.home, user.resolver, user.tool, half_way.index.url)


# torch 2.16 and 2.99 came after the release, which no file of it names.
@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ([NAME], "2.10 0.1.116 2.99.0"),
        ([f"{NAME}[torch28]"], "2.8 0.1.116 2.8.0"),
        ([f"{NAME}[torch210]"], "2.10 0.1.116 2.10.0"),
        ([f"{NAME}[torch216]"], "2.10 0.1.116 2.16.0"),
        ([NAME, "torch==2.9.*"], "2.9 0.1.116 2.9.1"),
        ([NAME, "torch==2.10.*"], "2.10 0.1.116 2.10.0"),
        ([NAME, "torch==2.16.*"], "2.10 0.1.116 2.16.0"),
        ([NAME, "torch<2.16"], "2.10 0.1.116 2.10.0"),
        ([f"{NAME}==0.1.115", "torch==2.10.*"], "2.10 0.1.115 2.10.0"),
        ([f"{NAME}-torch-stable"], "2.10 0.1.116 2.99.0"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_project_with_a_stable_wheel(stable_user: User, note, wanted: list[str], expected: str) -> None:  # type: ignore[no-untyped-def]
    good(stable_user.install(*wanted))
    note(f"stable from 2.10: `{' '.join(wanted)}`", stable_user.gets())
    assert stable_user.gets() == expected


@pytest.mark.parametrize("wanted", [[f"{NAME}[torch28,torch210]"], [f"{NAME}[torch210]", "torch==2.9.*"]])
def test_contradictions_with_a_stable_wheel(stable_user: User, note, wanted: list[str]) -> None:  # type: ignore[no-untyped-def]
    done = stable_user.install(*wanted)
    note(f"stable from 2.10: `{' '.join(wanted)}`", "refused" if done.returncode else stable_user.gets())
    assert done.returncode != 0
    assert any(words in done.stdout + done.stderr for words in REFUSED)


@pytest.mark.parametrize("user", RESOLVERS[:3], indirect=True)  # a lock knows no installed torch
@pytest.mark.parametrize("torch", ["2.9.0", "2.10.0", "2.16.0"])
def test_a_stable_wheel_beside_an_installed_torch(stable_user: User, note, torch: str) -> None:  # type: ignore[no-untyped-def]
    good(stable_user.install(f"torch=={torch}"))
    good(stable_user.install(NAME))
    note(f"stable from 2.10: plain, torch {torch} installed", stable_user.gets())
    serving = "2.9" if torch == "2.9.0" else "2.10"
    kept = stable_user.resolver == "uv" or serving == "2.10"
    assert stable_user.gets() == (f"{serving} 0.1.116 {torch}" if kept else "2.10 0.1.116 2.99.0")


def test_an_upgrade_to_the_stable_wheel(stable_user: User, note) -> None:  # type: ignore[no-untyped-def]
    """The variant of before stays installed, since nothing uninstalls it; it is not imported any more."""
    good(stable_user.install(f"{NAME}==0.1.115", "torch==2.10.*"))
    good(stable_user.install("--upgrade", NAME, "torch==2.10.*"))
    note("stable from 2.10 at the next version: upgraded", stable_user.gets())
    assert stable_user.gets() == "2.10 0.1.116 2.10.0"
