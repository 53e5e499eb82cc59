"""What users of torch for another CUDA type and get, with the resolvers that they have.

The default index has torch for CUDA 12.8. Others have the same releases with +cu126, +cu130 and +cpu, as users name them to
pip (--extra-index-url) and uv (--index). torch and the variants' code are stand-ins, as in test_resolvers.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import elves
from tests.family import family, make_wheel, variant
from tests.index import Index
from tests.integration.test_resolvers import (  # noqa: F401 (table and tools are fixtures)
    NAME,
    OWN,
    REFUSED,
    RESOLVERS,
    TAG,
    User,
    V,
    World,
    good,
    table,
    tools,
)
from torch_build_farm.wheels import one_name

CUDAS = {"": "'12.8'", "cu126": "'12.6'", "cu130": "'13.0'", "cpu": "None"}
NEEDED = {"": "12", "cu126": "12", "cu130": "13"}
RELEASES = ("2.8.0", "2.9.0", "2.9.1")


def torch(folder: Path, release: str, flavour: str) -> Path:
    """A torch that says which CUDA it has, as its own build writes it."""
    version = f"{release}+{flavour}" if flavour else release
    lines = ["from typing import Optional", f"__version__ = {version!r}", f"cuda: Optional[str] = {CUDAS[flavour]}", ""]
    files = {"torch/__init__.py": "from .version import __version__\n", "torch/version.py": "\n".join(lines)}
    return make_wheel(folder, "torch", version, files)


class Indexes(World):
    """The default index with our release, and an index for each other flavour of torch."""

    def __init__(self, folder: Path) -> None:
        (folder / "index").mkdir(parents=True)
        self.folder, self.index, self.own = folder, Index(folder / "index"), OWN
        self.of_flavours: dict[str, Index] = {}
        for flavour in CUDAS:
            if flavour:
                (folder / flavour).mkdir()
                self.of_flavours[flavour] = Index(folder / flavour)
            for release in RELEASES:
                (self.of_flavours[flavour] if flavour else self.index).add_wheel(
                    torch(folder / "made", release, flavour)
                )
        minors = ("2.8", "2.9", "2.9:cu126", "2.9:cu130")
        models = [self.variant(V, minor) for minor in minors]
        for made in one_name.write(family(self.own, models[1], dict.fromkeys(minors, V)), folder / "made"):
            self.index.add_wheel(made)

    def variant(self, version: str, minor: str) -> Path:
        code: Mapping[str, str | bytes] = {
            "pymomentum/code.py": f"import torch\nMINOR, VERSION = {minor!r}, {version!r}\n",
            "pymomentum/_gpu.so": elves.library(needed=[f"libcudart.so.{NEEDED[minor.partition(':')[2]]}"]),
        }
        made = variant(self.folder / "made", self.own, minor, version, code, tag=TAG)
        self.index.add_wheel(made)
        return made

    def close(self) -> None:
        for index in (self.index, *self.of_flavours.values()):
            index.close()


@pytest.fixture(scope="module")
def indexes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Indexes]:
    made = Indexes(tmp_path_factory.mktemp("indexes"))
    yield made
    made.close()


@dataclass
class FlavourUser(User):
    """A user who names one more index to the resolver."""

    more: str = ""

    @property
    def env(self) -> dict[str, str]:
        return {**super().env, "PIP_EXTRA_INDEX_URL": self.more, "UV_INDEX": self.more}

    def says(self) -> str:
        """The guard's message, or what `gets` has."""
        done = self.call(self.home / "bin" / "python", "-I", "-c", "import pymomentum")
        return done.stderr if done.returncode else self.gets()


@pytest.fixture
def user_of(request: pytest.FixtureRequest, indexes: Indexes, tools: dict[str, Path], tmp_path: Path):  # type: ignore[no-untyped-def] # noqa: F811
    def of(flavour: str) -> FlavourUser:
        more = indexes.of_flavours[flavour].url if flavour else ""
        return FlavourUser(tmp_path / "home", request.param, tools[request.param], indexes.index.url, more)

    return of


def noted(table: dict[str, dict[str, str]], user: FlavourUser, row: str) -> str:  # noqa: F811
    """What the user reads or gets, which goes into the table as well."""
    said = user.says()
    line = re.search(r"ImportError: (.+)", said)
    extra = re.search(r'pip install "?([^"\n]+)"?', said)
    seen = f"{line[1]} `{extra[1]}`" if line and extra else said
    table.setdefault(row, {})[user.resolver] = seen
    return said


@pytest.mark.parametrize("user_of", RESOLVERS, indirect=True)
@pytest.mark.parametrize(
    ("flavour", "wanted", "gets"),
    [
        ("cu126", f"{NAME}[torch29-cu126]", "2.9:cu126 {V} 2.9.1+cu126"),
        ("cu130", f"{NAME}[torch29-cu130]", "2.9:cu130 {V} 2.9.1+cu130"),
        # No resolver can tell torch's flavours: the index's own torch satisfies ==2.9.* too. Its CUDA has the same major.
        ("", f"{NAME}[torch29-cu126]", "2.9:cu126 {V} 2.9.1"),
        ("", f"{NAME}[torch29]", "2.9 {V} 2.9.1"),
        ("", NAME, "2.9 {V} 2.9.1"),
        ("cu126", NAME, "2.9 {V} 2.9.1+cu126"),  # built for CUDA 12.8, and good for 12.6
        ("cu126", f"{NAME}[torch28]", "2.8 {V} 2.8.0+cu126"),
        ("cu126", f"{NAME}[torch29-cu126] torch==2.9.0", "2.9:cu126 {V} 2.9.0+cu126"),
        ("cu126", f"{NAME} torch==2.9.0", "2.9 {V} 2.9.0+cu126"),
        ("cu126", f"{NAME}[torch29,torch29-cu126]", "2.9:cu126 {V} 2.9.1+cu126"),
        ("cu130", f"{NAME}[torch29,torch29-cu130]", "2.9:cu130 {V} 2.9.1+cu130"),
        ("", f"{NAME}[torch29,torch29-cu130]", "2.9 {V} 2.9.1"),
    ],
)
def test_what_works(user_of, table, flavour: str, wanted: str, gets: str) -> None:  # type: ignore[no-untyped-def] # noqa: F811
    user = user_of(flavour)
    good(user.install(*wanted.split()))
    assert noted(table, user, f"`{wanted}`, torch +{flavour or 'cu128 (the default)'}") == gets.format(V=V)
    # What is not asked for is not there: a variant has 100 MB.
    found = {path.name.partition("-")[0] for path in user.home.glob("lib/python*/site-packages/*torch2*.dist-info")}
    asked = re.findall(r"torch29(?:-cu\d+)?", wanted) or ["torch28" if "torch28" in wanted else "torch29"]
    assert found == {f"{NAME}-{tag}".replace("-", "_") for tag in asked}


@pytest.mark.parametrize("user_of", RESOLVERS, indirect=True)
@pytest.mark.parametrize(
    ("flavour", "wanted", "reads", "extra"),
    [
        ("cu130", NAME, "variant for torch 2.9 needs a torch with CUDA 12, and torch 2.9.1+cu130 has CUDA 13.0", "torch29-cu130"),
        ("cu130", f"{NAME}[torch29]", "needs a torch with CUDA 12, and torch 2.9.1+cu130 has CUDA 13.0", "torch29-cu130"),
        ("", f"{NAME}[torch29-cu130]", "needs a torch with CUDA 13, and torch 2.9.1 has CUDA 12.8", "torch29"),
        ("cu126", f"{NAME}[torch29-cu130]", "needs a torch with CUDA 13, and torch 2.9.1+cu126 has CUDA 12.6", "torch29-cu126"),
    ],
)  # fmt: skip
def test_the_guard_names_the_extra_that_works(  # type: ignore[no-untyped-def]
    user_of,
    table,  # noqa: F811
    flavour: str,
    wanted: str,
    reads: str,
    extra: str,
) -> None:
    user = user_of(flavour)
    good(user.install(wanted))
    said = noted(table, user, f"`{wanted}`, torch +{flavour or 'cu128 (the default)'}")
    assert reads in said
    assert f'pip install "{NAME}[{extra}]"' in said

    # What the guard says to install works, and leaves torch as it is.
    before = user.call(user.home / "bin" / "python", "-I", "-c", "import torch; print(torch.__version__)").stdout
    good(user.install(f"{NAME}[{extra}]"))
    assert user.says() == f"2.9{extra.removeprefix('torch29').replace('-', ':')} {V} {before.strip()}"


@pytest.mark.parametrize("user_of", RESOLVERS, indirect=True)
@pytest.mark.parametrize("wanted", [NAME, f"{NAME}[torch29-cu126]"])
def test_a_cpu_torch(user_of, table, wanted: str) -> None:  # type: ignore[no-untyped-def] # noqa: F811
    user = user_of("cpu")
    good(user.install(wanted))
    said = noted(table, user, f"`{wanted}`, torch +cpu")
    assert "needs a torch with CUDA 12, and torch 2.9.1+cpu has none" in said
    assert '"torch==2.9.*"' in said


@pytest.mark.parametrize("user_of", RESOLVERS, indirect=True)
@pytest.mark.parametrize("wanted", [f"{NAME}[torch29-cu126,torch28]", f"{NAME}[torch210-cu126] torch==2.9.*"])
def test_what_contradicts_itself(user_of, table, wanted: str) -> None:  # type: ignore[no-untyped-def] # noqa: F811
    """Of an extra that no release has, pip and uv only warn: the torch that is named decides."""
    user = user_of("cu126")
    done = user.install(*wanted.split())
    if "torch210" in wanted:
        good(done)
        assert noted(table, user, f"`{wanted}`, torch +cu126") == f"2.9 {V} 2.9.1+cu126"
    else:
        table.setdefault(f"`{wanted}`", {})[user.resolver] = "refused"
        assert done.returncode != 0
        assert any(words in done.stdout + done.stderr for words in REFUSED)
