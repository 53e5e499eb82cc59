"""A project's own tests beside its wheel: real uv and real environments, with stand-ins for torch and the packages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from ctypes.util import find_library
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests import family
from tests.conftest import need
from tests.wheels.test_driver import linked
from torch_build_farm.core import tools
from torch_build_farm.core.errors import SmokeError
from torch_build_farm.core.machine import X86_64
from torch_build_farm.core.process import Runner, Shell
from torch_build_farm.core.store import TorchStore
from torch_build_farm.core.versions import CPython, Minor
from torch_build_farm.engines.local import LocalEngine
from torch_build_farm.pipeline.facts import SmokeFacts
from torch_build_farm.pipeline.smoke_test import SmokeTest
from torch_build_farm.project.plan import Job
from torch_build_farm.wheels import driver, one_name

TORCH = {
    "torch/__init__.py": "from . import cuda, version\n__version__ = version.__version__\n",
    "torch/cuda.py": "def device_count():\n    return 0\n",
    "torch/version.py": "__version__ = '2.9.1'\ncuda = '12.8'\n",
}
NOTHING: Mapping[str, bytes] = {}
Smoke = Callable[..., SmokeFacts]


@pytest.fixture
def smoke(tmp_path: Path) -> Smoke:
    """Smoke-tests a wheel of package `demo` whose settings are these, with these files in its source tree."""
    links = tmp_path / "links"
    family.make_wheel(links, "torch", "2.9.1", TORCH)
    family.make_wheel(links, "only-tests-need", "1.0", {"only_tests_need.py": "ANSWER = 42\n"})
    family.make_wheel(links, "extra-needs", "1.0", {"extra_needs.py": ""})

    def run(
        files: Mapping[str, str], *, init: str = "", package: Mapping[str, bytes] = NOTHING, **settings: Any
    ) -> SmokeFacts:
        own = family.project("demo")
        own = replace(
            own, root=tmp_path, settings=replace(own.settings, imports=("demo",), **{"smoke_script": None, **settings})
        )
        variant = replace(own.variants[Minor(2, 9)], cpython=(CPython(3, 14),))
        extra = ("Provides-Extra: test", "Requires-Dist: extra-needs; extra == 'test'")
        wheel = family.variant(tmp_path / "wheels", own, "2.9", "1.0", {"demo/__init__.py": init, **package}, *extra)
        beside = tmp_path / "beside"
        beside.mkdir()
        one_name.write(family.family(own, wheel, {"2.9": "1.0"}), beside)
        wheel = wheel.rename(beside / wheel.name)
        tree = tmp_path / "tree"
        tree.mkdir()
        for path, text in files.items():
            (tree / path).parent.mkdir(parents=True, exist_ok=True)
            (tree / path).write_text(text)
        store = TorchStore.at(tmp_path / "store", tmp_path)
        store.uv_cache.mkdir(parents=True)
        store.remember("2.9.*", CPython.running())
        env = {**tools.environment(store.uv_cache, store.root), "UV_OFFLINE": "1", "UV_FIND_LINKS": str(links)}
        shell = Shell(Runner(), env, tmp_path, tmp_path / "log", lambda _: None)
        job = Job("demo-torch29", "1.0", variant, CPython.running())
        with LocalEngine(own, store).site(job, shell) as site:
            facts = SmokeTest(own, job, wheel, "2.9.*", tree, tree, "full", site).run()
        assert list((store.root / "envs").glob("*/*")) == []
        return facts

    return run


def test_test_requirements_are_there_for_script_and_commands(smoke: Smoke, tmp_path: Path) -> None:
    facts = smoke(
        {"smoke.py": "import demo, only_tests_need\nprint(only_tests_need.ANSWER)\n"},
        smoke_script="tree/smoke.py",
        test_requires=("only-tests-need",),
        test_command=("python -c 'import demo, only_tests_need as o; print(o.ANSWER + 1)'", "echo done; echo"),
    )
    assert (facts.script, facts.tests) == ("42", ("43", "done"))


def test_they_do_not_help_an_import(smoke: Smoke) -> None:
    """A user has only what the wheel requires."""
    with pytest.raises(SmokeError, match=r"import demo fails in a fresh interpreter: .*only_tests_need"):
        smoke({}, init="import only_tests_need\n", test_requires=("only-tests-need",), test_command=("true",))


def test_extras(smoke: Smoke) -> None:
    facts = smoke({}, test_extras=("Test",), test_command=("python -c 'import demo, extra_needs; print(1)'",))
    assert facts.tests == ("1",)


def test_an_extra_that_the_wheel_has_not(smoke: Smoke) -> None:
    with pytest.raises(SmokeError, match="no extra tests; did you mean 'test'"):
        smoke({}, test_extras=("tests",), test_command=("true",))


def test_commands_get_a_copy_of_the_source(smoke: Smoke, tmp_path: Path) -> None:
    """Test runners write into the tree that they test, and the rendered one must stay as it is."""
    text = "import pathlib, demo\npathlib.Path(__file__).with_name('cache').touch()\nprint(demo.__file__)\n"
    commands = ("python {project}/py/tests/run.py && ls", "python {package}/tests/run.py", "ls {package}")
    facts = smoke({"py/tests/run.py": text}, subdirectory="py", test_command=commands)
    assert facts.tests[0] == facts.tests[1]
    assert facts.tests[0].endswith("demo/_torch29/__init__.py"), "the current folder is empty"
    assert facts.tests[2] == "tests"
    assert [path.name for path in (tmp_path / "tree/py/tests").iterdir()] == ["run.py"]


def test_a_command_that_fails(smoke: Smoke, tmp_path: Path) -> None:
    with pytest.raises(SmokeError, match=r"the test command 'echo 1 failed; exit 3' fails: 1 failed") as raised:
        smoke({}, test_command=("echo fine", "echo 1 failed; exit 3", "touch never"))
    assert raised.value.where == str(tmp_path / "log")
    assert "touch never" not in (tmp_path / "log").read_text()


def test_braces_of_the_shell_and_of_python_stay(smoke: Smoke) -> None:
    facts = smoke({}, test_command=("x=1; echo ${x} {a,b} '{}' %d",))
    assert facts.tests == ("1 {a,b} {} %d",)


def test_without_test_requirements_one_environment_is_enough(smoke: Smoke) -> None:
    facts = smoke({}, test_command=('command -v python | grep -q "^$VIRTUAL_ENV/" && echo "$VIRTUAL_ENV"',))
    assert facts.tests[0].endswith("/demo-torch29-cp311-smoke".replace("cp311", CPython.running().tag))


def test_a_wheel_that_needs_the_driver_is_imported_beside_a_stub(smoke: Smoke, tmp_path: Path) -> None:
    """The tests of the project run beside it too; the record says that nothing ran on a GPU."""
    need(not find_library("cuda"), "this machine has NVIDIA's driver")
    (tmp_path / "libcuda.so").write_bytes(driver.link_stub(X86_64))
    source = "int cuInit(unsigned); int initialize(void) { return cuInit(0); }"
    library = linked(tmp_path, source, f"-L{tmp_path}", "-lcuda", "-Wl,-z,now")
    init = "import ctypes, os\n_core = ctypes.CDLL(os.path.join(os.path.dirname(__file__), '_core.so'))\n"
    command = "python -c 'import demo; print(demo._core.initialize())'"
    package = {"demo/_core.so": library.read_bytes()}
    facts = smoke({}, init=init, package=package, test_requires=("only-tests-need",), test_command=(command,))
    assert (facts.tests, facts.stubs) == (("34",), ("libcuda.so.1",))
