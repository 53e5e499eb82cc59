"""What smoke reads in METADATA, and whose torch it wants refused."""

import os
import re
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests import family
from tests.conftest import CHECKOUT
from tests.pipeline.test_repair import METADATA, wheel
from torch_build_farm.core import tools
from torch_build_farm.core.errors import SmokeError
from torch_build_farm.core.process import Completed, Runner, Shell
from torch_build_farm.core.store import TorchStore
from torch_build_farm.core.versions import CPython, Minor
from torch_build_farm.engines.base import Interpreter, Site
from torch_build_farm.pipeline.facts import SmokeFacts
from torch_build_farm.pipeline.smoke_test import SmokeTest, metadata_problems, neighbour
from torch_build_farm.project.plan import Job
from torch_build_farm.project.settings import load
from torch_build_farm.wheels import one_name

PROJECT = load(CHECKOUT, CHECKOUT)
JOB = Job("demo-torch29", "1.0", PROJECT.variants[Minor(2, 9)], CPython(3, 11))
GOOD = METADATA.replace("Requires-Python: >=3.10", "Requires-Python: >=3.10,<3.15")


def problems(tmp_path: Path, metadata: str, version: str = "3.11.7") -> str:
    return "\n".join(metadata_problems(wheel(tmp_path, {}, metadata=metadata), JOB, version))


def test_as_it_should_be(tmp_path: Path) -> None:
    assert problems(tmp_path, GOOD) == ""


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("demo-torch29", "demo", "Name is demo, not demo-torch29"),
        ("Version: 1.0", "Version: 1.1", "Version is 1.1, not 1.0"),
        ("==2.9.*", ">=2.9", "asks for torch>=2.9, not torch==2.9.*"),
        ("Requires-Dist: torch==2.9.*\n", "", "asks for nothing"),
        ("Requires-Dist: torch==2.9.*\n", "Requires-Dist: torch==2.9.*; extra == 'gpu'\n", "asks for nothing"),
        (">=3.10,<3.15", ">=3.12,<3.15", "leaves out 3.11.7"),
        (">=3.10,<3.15", ">=3.10", "admits CPythons that torch has no wheel for"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert old in GOOD
    assert said in problems(tmp_path, GOOD.replace(old, new))


def test_patch_releases_of_python_count(tmp_path: Path) -> None:
    exact = GOOD.replace(">=3.10,<3.15", ">=3.10,!=3.11.0,<3.15")
    assert problems(tmp_path, exact, "3.11.7") == ""
    assert "leaves out 3.11.0" in problems(tmp_path, exact, "3.11.0")


def test_the_next_minor_must_be_refused_or_the_one_before() -> None:
    for torch, other in (("2.8", "2.9"), ("2.9", "2.10"), ("2.15", "2.14")):
        found = neighbour(PROJECT, PROJECT.variants[Minor.parse(torch)])
        assert str(found.torch if found else None) == other


TORCH = '{"torch": "2.9.1+cu128", "cuda": "12.8", "devices": ["cpu"]}'


def smoke(tmp_path: Path, answers: dict[str, Completed]) -> tuple[SmokeTest, list[str]]:
    """A smoke test whose commands answer as told, by a word in them, and what it runs."""
    ran: list[str] = []

    def run(*command: str | Path) -> Completed:
        ran.append(" ".join(map(str, command)))
        return next((answer for word, answer in answers.items() if word in ran[-1]), Completed((), 0, ()))

    store = TorchStore.at(tmp_path / "store", tmp_path)
    store.uv_cache.mkdir(parents=True)
    store.remember("2.9.*", JOB.python)
    shell: Any = SimpleNamespace(run=run, say=lambda _: None, log=tmp_path / "log")
    site = Site(
        shell=shell,
        uv=Path("uv"),
        python=Interpreter("3.11.7", Path("python")),
        store=store,
        bring=lambda path: Path("/there", path.name),
        remove=lambda _: None,
        foreign=lambda _: nullcontext(shell),
        written=lambda home: home,
        links=True,
    )
    project = replace(PROJECT, settings=replace(PROJECT.settings, imports=("demo", "demo.more", "other")))
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    path = wheel(wheels, {}, metadata=GOOD).path
    return SmokeTest(project, JOB, path, "2.9.*", tmp_path, tmp_path, "import", site), ran


def test_the_wheels_behind_the_one_name_are_installed_with_it(tmp_path: Path) -> None:
    refused = neighbour(PROJECT, JOB.variant)
    assert refused
    because = Completed((), 1, ("demo-torch29==1.0 depends on torch==2.9.* and you", "require", "it: unsatisfiable."))
    test, ran = smoke(tmp_path, {"--dry-run": because, "import demo.more\n": Completed((), 0, (TORCH,))})
    for name in ("demo_select-1-py3-none-any.whl", "demo-1-py3-none-any.whl"):
        (test.wheel.parent / name).touch()
    assert replace(test, mode="full").run().refuses == f"torch {refused.torch}"
    install, dry_run = [command for command in ran if "pip install" in command]
    names = sorted(path.name for path in test.wheel.parent.iterdir())
    assert len(names) == 3
    files = " ".join(f"/there/wheels/{name}" for name in names)
    assert install.endswith(f" {files}")
    assert dry_run.endswith(f"-refused /there/wheels/{test.wheel.name} torch{refused.pin}"), "the wheel alone"


@pytest.mark.parametrize("torch", [str(minor) for minor in PROJECT.variants])
def test_uv_names_the_wheels_own_pin(tmp_path: Path, torch: str) -> None:
    """In a run of one minor, the plain wheel's bound excludes the minor before, and the rung's pin every other one."""
    own = family.project("demo")
    own = replace(own, settings=replace(own.settings, imports=("demo",)))
    path = family.variant(tmp_path, own, torch, "1.0", {"demo/__init__.py": ""})
    one_name.write(family.family(own, path, {torch: "1.0"}), path.parent)
    # The CPython up to which the stand-in's Requires-Python goes.
    variant = replace(own.variants[Minor.parse(torch)], cpython=(CPython(3, 14),))
    answer = TORCH.replace("2.9", torch).replace("12.8", variant.cuda)
    test, _ = smoke(tmp_path, {"import demo\n": Completed((), 0, (answer,))})

    uv_alone = Shell(
        Runner(), {**os.environ, "UV_NO_INDEX": "1", "UV_NO_CACHE": "1"}, tmp_path, tmp_path / "log", lambda _: None
    )

    def run(*command: str | Path) -> Completed:
        return uv_alone.run(*command) if "--dry-run" in command else Completed((), 0, ())

    shell: Any = SimpleNamespace(run=run, say=lambda _: None, log=tmp_path / "log")
    python = Interpreter("3.14.0", Path(sys.executable))
    site = replace(test.site, shell=shell, uv=tools.uv(), python=python, bring=lambda path: path)
    job = Job(f"demo-{variant.torch.tag}", "1.0", variant, CPython(3, 14))
    other = neighbour(own, variant)
    assert other
    test = SmokeTest(own, job, path, f"{torch}.*", tmp_path, tmp_path, "full", site)
    assert test.run().refuses == f"torch {other.torch}"


@pytest.mark.parametrize(
    "reason",
    [
        "Because demo==1.0 depends on torch==2.9.*, your requirements are unsatisfiable.",
        "Because not-demo-torch29==1.0 depends on torch==2.9.*, your requirements are unsatisfiable.",
        "Because demo-torch29==1.0 depends on torch>=2.9, your requirements are unsatisfiable.",
        "Because demo-torch29==1.0 depends on torch==2.9.*, and the index does not answer",
    ],
)
def test_a_refusal_for_another_reason(tmp_path: Path, reason: str) -> None:
    test, _ = smoke(tmp_path, {"--dry-run": Completed((), 1, (reason,))})
    (tmp_path / "log").write_text(f"{reason}\n")
    with pytest.raises(SmokeError, match=f"for another reason: {re.escape(reason)}"):
        replace(test, mode="full").run()


def test_a_wheel_that_is_accepted_beside_another_torch(tmp_path: Path) -> None:
    test, _ = smoke(tmp_path, {})
    with pytest.raises(SmokeError, match=r"accepts it together with torch 2\.10"):
        replace(test, mode="full").run()


def test_torch_is_loaded_once_for_each_import_and_no_more(tmp_path: Path) -> None:
    test, ran = smoke(tmp_path, {"import demo.more\n": Completed((), 0, (TORCH,))})
    assert test.run() == SmokeFacts("2.9.1+cu128", "12.8", ("cpu",), ("demo", "demo.more", "other"))
    assert sum("-I" in command for command in ran) == 2


@pytest.mark.parametrize(
    ("alone", "said"),
    [
        (Completed((), 0, (TORCH,)), "import demo.more fails in a fresh interpreter: ImportError: undefined symbol"),
        (Completed((), 0, (TORCH.replace("2.9.1", "2.8.0"),)), "the wheel brought torch 2.8.0"),
        (Completed((), 1, ("OSError: libcudart.so.12",)), "torch itself does not import: OSError: libcudart.so.12"),
    ],
)
def test_a_first_import_that_fails_is_not_blamed_for_torch(tmp_path: Path, alone: Completed, said: str) -> None:
    failed = Completed((), 1, ("ImportError: undefined symbol",))
    test, _ = smoke(tmp_path, {"import demo.more\n": failed, "-I -c": alone})
    with pytest.raises(SmokeError, match=said):
        test.run()


@pytest.mark.parametrize("missing", ["libc10.so", "libtorch_python.so"])
def test_the_way_out_where_torchs_libraries_are_not_loaded(tmp_path: Path, missing: str) -> None:
    """The loader names the first that it needs, which for torch's own setuptools extensions is libc10."""
    failed = Completed((), 1, (f"ImportError: {missing}: cannot open shared object file: No such file or directory",))
    test, _ = smoke(tmp_path, {"import demo.more\n": failed, "-I -c": Completed((), 0, (TORCH,))})
    with pytest.raises(SmokeError) as error:
        test.run()
    assert "import-torch-first = true" in error.value.next_step


@pytest.mark.parametrize(
    "line",
    [
        '{"torch"',
        '{"torch": "2.9.1"}',
        TORCH.replace('"2.9.1+cu128"', '"two"'),
        TORCH.replace('"2.9.1+cu128"', "291"),
        TORCH.replace('"12.8"', "12.8"),
        TORCH.replace('["cpu"]', '"cpu"'),
        TORCH.replace('"cpu"', "1"),
        TORCH.replace('"cpu"', '"\\ud800"'),
        '{"torch": ' + "[" * 60_000,
    ],
)
def test_a_line_that_only_begins_like_torchs(tmp_path: Path, line: str) -> None:
    """The package's own code has the last word in its interpreter, such as by atexit."""
    test, _ = smoke(tmp_path, {"import demo.more\n": Completed((), 0, (TORCH, line))})
    with pytest.raises(SmokeError, match="what the import prints about torch"):
        test.run()


def test_a_package_that_ends_the_interpreter_does_not_import(tmp_path: Path) -> None:
    test, _ = smoke(tmp_path, {"import demo.more\n": Completed((), 0, ()), "-I -c": Completed((), 0, (TORCH,))})
    with pytest.raises(SmokeError, match="it ended with status 0"):
        test.run()


@pytest.mark.parametrize(("owner", "advice"), [("acme-core", "acme-core brings it"), ("system", "install it where")])
def test_an_external_library_that_is_not_found(tmp_path: Path, owner: str, advice: str) -> None:
    reason = "ImportError: libacme.so.2: cannot open shared object file: No such file or directory"
    answers = {"import demo.more\n": Completed((), 1, (reason,)), "-I -c": Completed((), 0, (TORCH,))}
    test, _ = smoke(tmp_path, answers)
    settings = replace(test.project.settings, external_libraries={"libacme.so*": owner})
    with pytest.raises(SmokeError, match=r"libacme\.so\.2") as caught:
        replace(test, project=replace(test.project, settings=settings)).run()
    assert advice in caught.value.next_step


@pytest.mark.parametrize(
    ("library", "advice"),
    [("libtorch_cpu.so", "import torch in the package's"), ("libtorchfoo.so", "the log has the traceback")],
)
def test_only_torchs_libraries_come_with_torch(tmp_path: Path, library: str, advice: str) -> None:
    reason = f"ImportError: {library}: cannot open shared object file: No such file or directory"
    answers = {"import demo.more\n": Completed((), 1, (reason,)), "-I -c": Completed((), 0, (TORCH,))}
    test, _ = smoke(tmp_path, answers)
    with pytest.raises(SmokeError) as caught:
        test.run()
    assert advice in caught.value.next_step


STABLE_PROJECT = replace(PROJECT, settings=replace(PROJECT.settings, stable_abi=Minor(2, 10)))
STABLE_JOB = Job("demo-torch-stable", "1.0", STABLE_PROJECT.variants[Minor(2, 10)], CPython(3, 11))
STABLE_METADATA = METADATA.replace("demo-torch29", "demo-torch-stable").replace("==2.9.*", ">=2.10")


def test_metadata_of_the_stable_abis_wheel(tmp_path: Path) -> None:
    assert metadata_problems(wheel(tmp_path, {}, metadata=STABLE_METADATA), STABLE_JOB, "3.11.7") == []
    pinned = STABLE_METADATA.replace(">=2.10", "==2.10.*")
    (problem,) = metadata_problems(wheel(tmp_path, {}, metadata=pinned), STABLE_JOB, "3.11.7")
    assert problem == "Requires-Dist asks for torch==2.10.*, not torch>=2.10"


def test_below_the_stable_abi_the_minor_before_is_refused() -> None:
    refused = neighbour(STABLE_PROJECT, STABLE_JOB.variant)
    assert refused
    assert refused.pin == "==2.9.*"
    below = neighbour(STABLE_PROJECT, STABLE_PROJECT.variants[Minor(2, 9)])
    assert below
    assert below.pin == ">=2.10"


@pytest.mark.parametrize(("torch", "cuda"), [("2.10.0", "12.8"), ("2.15.*", "13.0")])
def test_the_stable_abis_wheel_is_tested_with_the_torch_that_is_named(tmp_path: Path, torch: str, cuda: str) -> None:
    version = torch.replace("*", "0")
    answer = TORCH.replace("2.9.1+cu128", version).replace("12.8", cuda)
    test, ran = smoke(tmp_path, {"import demo.more\n": Completed((), 0, (answer,))})
    test.site.store.remember(torch, STABLE_JOB.python)
    path = wheel(tmp_path / "wheels", {}, metadata=STABLE_METADATA).path
    facts = replace(test, job=STABLE_JOB, wheel=path, torch=torch).run()
    assert (facts.torch, facts.cuda) == (version, cuda)
    (install,) = [command for command in ran if "pip install" in command]
    assert install.endswith(f" torch=={torch}")


def test_another_torch_than_the_stable_abis_wheel_is_tested_with(tmp_path: Path) -> None:
    """An index without the oldest torch must not have the newest tested twice."""
    answer = TORCH.replace("2.9.1+cu128", "2.15.0").replace("12.8", "13.0")
    test, _ = smoke(tmp_path, {"import demo.more\n": Completed((), 0, (answer,))})
    test.site.store.remember("2.10.0", STABLE_JOB.python)
    path = wheel(tmp_path / "wheels", {}, metadata=STABLE_METADATA).path
    with pytest.raises(SmokeError, match=r"with torch 2\.10\.0: the wheel brought torch 2\.15\.0, not ==2\.10\.0"):
        replace(test, job=STABLE_JOB, wheel=path, torch="2.10.0").run()
