"""A release without compiled code, and an index for it."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import Answer
from tests.index import Index
from tests.release import Release
from torch_build_farm.cli.main import main
from torch_build_farm.core import seals


@pytest.fixture(scope="session")
def small_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store in which uv remembers this machine's interpreters."""
    return tmp_path_factory.mktemp("store")


@pytest.fixture
def release(tmp_path: Path, small_store: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Release]:
    monkeypatch.setenv(seals.STATE_VARIABLE, str(tmp_path / "state"))
    seals._keys.clear()  # pytest may give this test the folder of an earlier one
    made = Release.make(tmp_path, small_store)
    yield made
    made.torch.close()


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    (tmp_path / "index").mkdir()
    made = Index(tmp_path / "index")
    yield made
    made.close()


@pytest.fixture
def call(
    release: Release, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Answer]:
    """Run a command of the farm on the release in this process, which takes a fraction of a start's time."""

    def run(*words: str, **env: str) -> Answer:
        farm = release.farm(**env)
        for name, value in farm.env.items():
            monkeypatch.setenv(name, value)
        capsys.readouterr()
        code = main(farm.command(*words)[2:])
        output = capsys.readouterr()
        return Answer(code, output.out, output.err)

    return run
