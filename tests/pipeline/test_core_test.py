"""The smoke test of a core: real uv and real environments, with stand-ins for what it requires."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests import family
from torch_build_farm.core import tools
from torch_build_farm.core.errors import SmokeError
from torch_build_farm.core.process import Runner, Shell
from torch_build_farm.core.store import TorchStore
from torch_build_farm.core.versions import CPython, Minor
from torch_build_farm.engines.local import LocalEngine
from torch_build_farm.pipeline.core_test import CoreTest
from torch_build_farm.pipeline.facts import CoreSmokeFacts
from torch_build_farm.project.plan import Job
from torch_build_farm.project.variant import CoreVariant

Smoke = Callable[..., CoreSmokeFacts]


@pytest.fixture
def smoke(tmp_path: Path) -> Smoke:
    """Smoke-tests a core with this requirement."""
    links = tmp_path / "links"
    family.make_wheel(links, "torch", "2.9.1", {"torch/__init__.py": ""})
    family.make_wheel(links, "ends-at-once", "1.0", {"ends.pth": "import os; os._exit(3)\n"})
    family.make_wheel(links, "harmless", "1.0", {"harmless.pth": "import sys; print('harmless', file=sys.stderr)\n"})

    def run(requirement: str, init: str = "") -> CoreSmokeFacts:
        own = family.project("demo")
        running = CPython.running()
        wheel = family.make_wheel(
            tmp_path / "wheels", "demo-core", "1.0", {"demo/__init__.py": init}, f"Requires-Dist: {requirement}"
        )
        store = TorchStore.at(tmp_path / "store", tmp_path)
        store.uv_cache.mkdir(parents=True)
        env = {**tools.environment(store.uv_cache, store.root), "UV_OFFLINE": "1", "UV_FIND_LINKS": str(links)}
        shell = Shell(Runner(), env, tmp_path, tmp_path / "log", lambda _: None)
        job = Job("demo-core", "1.0", CoreVariant.of(own.variants[Minor(2, 9)], [running]), running)
        with LocalEngine(own, store).site(job, shell) as site:
            return CoreTest(job, ("demo",), wheel, site).run()

    return run


def test_a_core_imports_where_no_torch_is(smoke: Smoke) -> None:
    assert smoke("harmless") == CoreSmokeFacts(("demo",))


@pytest.mark.parametrize(
    ("requirement", "words"),
    [
        ("torch", "what it requires brings torch"),
        ("missing-helper", "the wheel does not install: "),
        ("ends-at-once", "Python does not say whether torch is there: it ended with status 3"),
    ],
)
def test_what_is_wrong_is_named(smoke: Smoke, requirement: str, words: str) -> None:
    with pytest.raises(SmokeError) as caught:
        smoke(requirement)
    assert words in caught.value.what


def test_an_import_that_fails_is_named_by_its_exception(smoke: Smoke) -> None:
    with pytest.raises(SmokeError, match="import demo fails where no torch is: ModuleNotFoundError: No module named"):
        smoke("harmless", init="import missing\n")
