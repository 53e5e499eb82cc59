"""A release for x86-64 and arm64 that `publish` uploads to an index: what users of each platform get, by pip and uv.

The libraries of the variants are real ELF for their machine; torch is a stand-in.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import elves
from tests.family import describe_arm64
from tests.integration.test_resolvers import RESOLVERS, good, tools  # noqa: F401 (tools is a fixture)
from tests.release import Release
from tests.server import PASSWORD, USER, Server
from torch_build_farm.core import tools as toolbox
from torch_build_farm.core.machine import MACHINES, X86_64, Machine, running
from torch_build_farm.core.versions import CPython

PYTHON = CPython.running()
# What is built of a release: 2.8 for x86-64 alone, 2.9 for both.
BUILT = {"2.8": (X86_64,), "2.9": MACHINES}


@dataclass
class Published:
    """A release on an index that also has torch, and what `publish` said of it."""

    url: str
    files: list[str]
    said: str


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Published]:
    folder = tmp_path_factory.mktemp("release")
    release = Release.make(folder, folder / "store")
    describe_arm64(release.project.root, "torch28", "torch29")
    for torch, machines in BUILT.items():
        for machine in machines:
            library = elves.library(["PyObject_Call"], machine=machine.elf_number)
            tag = f"{PYTHON.tag}-{PYTHON.tag}-manylinux_2_28_{machine}"
            release.proven(release.variant(torch, files={"demo/_core.so": library}, tag=tag))
    server = Server(folder / "index")
    farm = release.farm(TWINE_USERNAME=USER, TWINE_PASSWORD=PASSWORD)
    answer = farm("publish", server.url, "--yes", "--json")
    assert answer.code == 0, answer.err
    release.torch.close()
    for wheel in folder.glob("torch/*/*.whl"):
        shutil.copy(wheel, server.folder)
    files = [Path(file["path"]).name for file in answer.document["files"]]
    yield Published(f"{server.url}simple/", files, answer.err)
    server.stop()


def test_variants_of_both_platforms_go_first(published: Published) -> None:
    kinds = [name.split("-")[0] for name in published.files]
    assert kinds == ["demo_torch28", "demo_torch29", "demo_torch29", "demo_select", "demo_select", "demo_auto", "demo"]
    elsewhere = next(machine for machine in MACHINES if machine != running())
    assert (
        f"demo[torch29]==1.0 for {elsewhere.words}, not imported: this machine is {running().words}" in published.said
    )
    assert "demo[torch29]==1.0, imports" in published.said
    assert "demo-torch28 1.0 has no wheel for arm64" in published.said


def pip(tool: Path, *words: str | Path) -> list[str]:
    return [str(word) for word in (tool / "bin" / "python", "-m", "pip", *words)]


def run(command: list[str], **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env={"PATH": "/usr/bin:/bin", **env}, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("machine", MACHINES, ids=str)
@pytest.mark.parametrize("wanted", ["demo-torch29", "demo[torch29]"])
@pytest.mark.parametrize("resolver", RESOLVERS[:2])
def test_pip_download_takes_the_platform_s_wheel(
    published: Published,
    tools: dict[str, Path],  # noqa: F811
    tmp_path: Path,
    resolver: str,
    wanted: str,
    machine: Machine,
) -> None:
    """pip takes markers from the interpreter that runs it, whatever --platform says; both platforms' are one marker."""
    options = ["--only-binary", ":all:", "--python-version", PYTHON.release, "--implementation", "cp"]
    options += ["--platform", f"manylinux_2_28_{machine}", "--index-url", published.url, "--no-cache-dir", "--dest"]
    good(run(pip(tools[resolver], "download", *options, tmp_path, wanted), PIP_CONFIG_FILE="/dev/null"))
    names = {path.name for path in tmp_path.iterdir()}
    assert f"demo_torch29-1.0-{PYTHON.tag}-{PYTHON.tag}-manylinux_2_28_{machine}.whl" in names
    assert sum(name.startswith("demo_torch") for name in names) == 1
    assert "torch-2.9.0-py3-none-any.whl" in names
    assert "demo-1.0-py3-none-any.whl" in names


@pytest.mark.parametrize("machine", MACHINES, ids=str)
@pytest.mark.parametrize(
    ("wanted", "variant"),
    [("demo", "torch29"), ("demo[torch29]", "torch29"), ("demo torch==2.8.*", "torch28"), ("demo[torch28]", "torch28")],
)
def test_uv_installs_for_the_platform(
    published: Published, tmp_path: Path, wanted: str, variant: str, machine: Machine
) -> None:
    """Torch 2.8 has a variant for x86-64 alone: elsewhere the plain wheel installs, and its import says why."""
    words = [toolbox.uv(), "pip", "install", "--target", tmp_path, "--python", sys.executable, *wanted.split()]
    words += [
        "--python-version",
        PYTHON.release,
        "--python-platform",
        f"{machine}-manylinux_2_28",
        "--only-binary",
        ":all:",
    ]
    environment = {"UV_DEFAULT_INDEX": published.url, "UV_NO_CONFIG": "1", "UV_NO_CACHE": "1"}
    good(run([str(word) for word in words], **environment))
    library = tmp_path / "demo" / f"_{variant}" / "_core.so"
    has_variant = machine in BUILT[f"2.{variant[-1]}"]
    assert library.exists() == has_variant
    if has_variant:
        assert int.from_bytes(library.read_bytes()[18:20], "little") == machine.elf_number
    assert (tmp_path / "demo" / "__init__.py").exists()


@pytest.mark.resolvers
def test_one_lock_file_serves_both_platforms(published: Published, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(
        f"[project]\nname = 'user'\nversion = '0'\nrequires-python = '=={PYTHON.release}.*'\ndependencies = ['demo']\n"
        "[tool.uv]\nenvironments = ["
        + ", ".join(f"\"sys_platform == 'linux' and platform_machine == '{machine}'\"" for machine in MACHINES)
        + "]\n"
    )
    words = [str(toolbox.uv()), "--directory", str(tmp_path)]
    environment = {
        "UV_DEFAULT_INDEX": published.url,
        "UV_NO_CONFIG": "1",
        "UV_NO_CACHE": "1",
        "UV_PYTHON": sys.executable,
    }
    good(run([*words, "lock"], **environment))
    for machine in MACHINES:
        platform = f"{machine}-manylinux_2_28"
        home = tmp_path / machine.name
        good(
            run(
                [*words, "sync", "--frozen", "--python-platform", platform],
                **environment,
                UV_PROJECT_ENVIRONMENT=str(home),
            )
        )
        (library,) = home.glob("lib/python*/site-packages/demo/_torch29/_core.so")
        assert int.from_bytes(library.read_bytes()[18:20], "little") == machine.elf_number
