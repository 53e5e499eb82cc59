"""The store: what killed farms left goes, and what live ones use stays."""

import signal
from pathlib import Path

import pytest

from torch_build_farm.core.errors import Interrupted, LockedError
from torch_build_farm.core.process import Runner, Shell
from torch_build_farm.core.store import TorchStore
from torch_build_farm.core.versions import CPython

PYTHON = CPython(3, 12)


@pytest.fixture
def store(tmp_path: Path) -> TorchStore:
    return TorchStore.at(tmp_path / "store", tmp_path / "work")


@pytest.fixture
def other(tmp_path: Path) -> TorchStore:
    """The same store, for another work folder."""
    return TorchStore.at(tmp_path / "store", tmp_path / "other work")


def left_in(store: TorchStore) -> Path:
    """An environment, as a farm has it while it works."""
    environment = store.environment("demo-build")
    (environment / "bin").mkdir(parents=True)
    return environment


def test_what_a_killed_farm_left_is_removed(store: TorchStore, other: TorchStore) -> None:
    leftovers = [left_in(store), left_in(other)]
    with store.environments():
        assert not any(path.exists() for path in leftovers)


def test_what_a_live_farm_uses_stays(store: TorchStore, other: TorchStore) -> None:
    with other.environments():
        used = left_in(other)
        with store.environments():
            assert used.exists()
            assert store.in_work(other.scope)
            assert not store.in_work(store.scope), "that is this farm itself"
        assert used.exists()
    assert not store.in_work(other.scope)


def test_a_store_in_use_is_not_removed(store: TorchStore, other: TorchStore) -> None:
    with (
        store.in_use(),
        other.in_use(),
        pytest.raises(LockedError, match="another farm uses the store"),
        store.in_use(alone=True),
    ):
        pass
    with store.in_use(alone=True), pytest.raises(LockedError), other.in_use():
        pass


def test_a_release_is_known_as_long_as_its_files_are_there(store: TorchStore) -> None:
    assert not store.has("2.9.*", PYTHON)
    store.remember("2.9.*", PYTHON)
    assert not store.has("2.9.*", PYTHON), "the cache is gone"
    store.uv_cache.mkdir()
    assert store.has("2.9.*", PYTHON)
    assert not store.has("2.8.*", PYTHON)
    store.forget()
    assert not store.has("2.9.*", PYTHON)


def test_what_is_free_is_told_of_a_store_that_is_new(store: TorchStore) -> None:
    assert store.free_gb() > 0
    assert store.root.is_dir()


def test_a_job_waits_for_another_one_that_fetches_the_same(store: TorchStore, tmp_path: Path) -> None:
    """Until that is done, or the run is cancelled."""
    runner = Runner()
    said: list[str] = []

    def say(text: str) -> None:
        assert not said, "for ever"
        said.append(text)

    shell = Shell(runner, {}, tmp_path, tmp_path / "log", say)
    with store.locked("torch-2.9", shell):
        with store.locked("torch-2.8", shell):
            assert said == []
        runner.cancel(signal.SIGINT)
        with pytest.raises(Interrupted), store.locked("torch-2.9", shell):
            pass
    assert said == ["waiting for another job that fetches torch-2.9"]
    with store.locked("torch-2.9", shell):
        pass
