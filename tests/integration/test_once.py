"""Once, not twice: what is fresh is kept, and only that."""

import shutil
from pathlib import Path

import pytest

from tests.conftest import CHECKOUT, Answer, Farm, need
from tests.integration.test_own_project import other_pythons
from torch_build_farm.core.store import TorchStore, default_folder
from torch_build_farm.core.versions import CPython

pytestmark = pytest.mark.torch

BUILD = ("build", "--torch", "2.8", "2.9", "--json")


def ran(answer: Answer) -> dict[str, list[str]]:
    """The stages that ran, by variant."""
    assert answer.code == 0, answer.err
    return {
        job["job"].split("-")[1]: [stage["stage"] for stage in job["stages"] if not stage["kept"]]
        for job in answer.document["jobs"]
    }


ALL = ["render", "build", "repair", "relocate", "audit"]


@pytest.fixture
def built(tiny: Farm) -> Farm:
    assert ran(tiny(*BUILD)) == {"torch28": ALL, "torch29": ALL}
    return tiny


def test_changes_redo_what_they_touch(built: Farm) -> None:
    assert ran(built(*BUILD)) == {"torch28": [], "torch29": []}

    # a lost or damaged wheel: that job only, and only what it takes
    (lost,) = built.work.glob("dist/*torch28*")
    content = lost.read_bytes()
    for harm in (lost.unlink, lambda: lost.write_bytes(content[:-1] + b"x")):
        harm()
        assert ran(built(*BUILD)) == {"torch28": [], "torch29": []}
        assert lost.read_bytes() == content
    for made, stage in (("repaired", "repair"), ("relocated", "relocate")):
        lost.unlink()
        shutil.rmtree(next(built.work.glob("jobs/*torch28*")) / made)
        assert ran(built(*BUILD)) == {"torch28": [stage], "torch29": []}
        assert lost.read_bytes() == content

    # everything that the build left is lost
    shutil.rmtree(next(built.work.glob("jobs/*torch29*")) / "raw")
    assert ran(built(*BUILD))["torch29"][:1] == ["build"]

    # a changed variants file: its minor only
    (built.project / "variants").mkdir()
    text = (CHECKOUT / "variants" / "torch29.toml").read_text()
    (built.project / "variants" / "torch29.toml").write_text(text.replace("cxx-standard = 17", "cxx-standard = 20"))
    # the same bytes again: nothing left to repair
    assert ran(built(*BUILD)) == {"torch28": [], "torch29": ["render", "build"]}

    # a changed source file: all
    built.edit("core.cpp", "name ? 0 : 42", "name ? 0 : 43")
    assert ran(built(*BUILD)) == {"torch28": ALL, "torch29": ALL}

    # --force: all, whatever the records say
    assert ran(built(*BUILD, "--force")) == {"torch28": ALL, "torch29": ALL}


def test_the_wheel_of_an_older_version_does_not_stay(built: Farm) -> None:
    built.edit("pyproject.toml", 'version = "1.0"', 'version = "1.1"')
    assert built(*BUILD).code == 0
    assert {path.name.split("-")[1] for path in built.work.glob("dist/*")} == {"1.1"}


def test_dist_holds_only_what_passed(tiny: Farm) -> None:
    """A wheel whose successor failed, in whatever stage, is no wheel of this source any more."""
    tiny.edit(
        "pyproject.toml",
        "[tool.torch-build-farm]",
        "[tool.torch-build-farm]\nsmoke-script = 'smoke.py'\nexclude = ['/smoke.py']",
    )
    script = tiny.project / "smoke.py"
    script.write_text("print('good')\n")
    call = ("run", "--torch", "2.8", "--json")

    def delivered() -> list[str]:
        return [path.name for path in tiny.work.glob("dist/*")]

    assert ran(tiny(*call)) == {"torch28": [*ALL, "smoke"]}
    assert len(delivered()) == 1

    script.write_text("raise SystemExit('bad')\n")  # a changed smoke script is a new smoke test
    assert tiny(*call).code == 17
    assert delivered() == []
    script.write_text("print('good')\n")  # that wheel did pass with this script
    assert ran(tiny(*call)) == {"torch28": []}
    assert len(delivered()) == 1
    assert ran(tiny(*call, "--smoke", "import")) == {"torch28": ["smoke"]}

    tiny.edit("core.cpp", "#include <Python.h>", "#include <Python.h>\n#error no")
    assert tiny(*call).code == 14
    assert delivered() == []


def test_a_new_release_of_the_minor_is_smoke_tested(tiny: Farm) -> None:
    call = ("run", "--torch", "2.9", "--smoke", "import", "--json")
    (tiny.project / "variants").mkdir()
    text = (CHECKOUT / "variants" / "torch29.toml").read_text()
    (tiny.project / "variants" / "torch29.toml").write_text(text.replace(', "2.9.1"]', "]"))
    assert ran(tiny(*call))["torch29"][-1] == "smoke"
    (tiny.project / "variants" / "torch29.toml").write_text(text)
    assert ran(tiny(*call))["torch29"] == ["build", "audit", "smoke"]


def test_a_wheel_for_every_cpython_is_built_once_and_tested_on_each(tiny: Farm) -> None:
    others = other_pythons()
    need(bool(others), "needs a second CPython")
    tiny.edit(
        "pyproject.toml",
        "[tool.torch-build-farm]",
        '[tool.scikit-build]\nwheel.py-api = "py3"\n\n[tool.torch-build-farm]',
    )
    # Any CPython's loader takes a module with this suffix.
    tiny.edit("CMakeLists.txt", "install(", "set_target_properties(_core PROPERTIES SUFFIX .abi3.so)\ninstall(")
    first, second = sorted([others[0], CPython.running()])
    call = ("run", "--torch", "2.8", "--python", str(first), str(second), "--smoke", "import", "--json")
    answer = tiny(*call)
    assert answer.code == 0, answer.err
    stages = {
        job["job"]: [stage["stage"] for stage in job["stages"] if not stage["kept"]] for job in answer.document["jobs"]
    }
    assert stages == {f"tiny-torch28-{first.tag}": [*ALL, "smoke"], f"tiny-torch28-{second.tag}": ["smoke"]}
    (wheel,) = tiny.work.glob("dist/*torch28*")
    assert "-py3-none-" in wheel.name
    assert {job["wheel"]["path"] for job in answer.document["jobs"]} == {str(wheel)}
    kept = tiny(*call)
    assert [job["status"] for job in kept.document["jobs"]] == ["kept", "kept"]


def test_no_wheel_comes_out_of_another_tools_cache(tiny: Farm) -> None:
    """A forced build compiles, and each minor's library is that minor's, whatever pip and uv have cached."""
    tiny.edit("core.cpp", "name ? 0 : 42", "name ? 0 : TORCH")
    tiny.edit("CMakeLists.txt", "install(", 'find_package(Torch REQUIRED)\nstring(REPLACE "." "" torch "${Torch_VERSION}")\n'
              "target_compile_definitions(_core PRIVATE TORCH=${torch})\ninstall(")  # fmt: skip
    tiny.edit("pyproject.toml", 'imports = ["tiny", "tiny._core"]', 'smoke-script = "smoke.py"')
    (tiny.project / "smoke.py").write_text(
        "import tiny, torch\nfrom importlib.metadata import distributions\n"
        "(name,) = [d.name for d in distributions() if d.name.startswith('tiny-torch')]\n"
        "assert name == 'tiny-torch' + ''.join(torch.__version__.split('.')[:2]), name\n"
        "assert str(tiny.answer()).startswith(name.removeprefix('tiny-torch')), tiny.answer()\n"
        "print(name, tiny.answer())\n"
    )
    answer = tiny("run", "--torch", "2.8", "2.9", "--json")
    assert answer.code == 0, answer.err
    said = [job["stages"][-1]["details"]["script"] for job in answer.document["jobs"]]
    assert said == ["tiny-torch28 280", "tiny-torch29 290"]
    again = tiny("build", "--torch", "2.8", "--force", "--json")
    assert again.code == 0
    (log,) = tiny.work.glob("logs/*torch28*")
    assert "Building CXX object" in log.read_text()


def test_torch_is_on_disk_once(tiny: Farm, tmp_path: Path) -> None:
    """A build environment's torch is the store's, by hard link."""
    command = f"stat -c %h $VIRTUAL_ENV/lib/python*/site-packages/torch/lib/libtorch_cpu.so > {tmp_path}/links"
    tiny.edit("pyproject.toml", "[tool.torch-build-farm]", f"[tool.torch-build-farm]\nbefore-build = ['{command}']")
    assert tiny("build", "--torch", "2.8").code == 0
    assert int((tmp_path / "links").read_text()) >= 2


def test_environments_are_gone_afterwards(built: Farm) -> None:
    assert not list(TorchStore.at(default_folder(), built.work).environment("").glob("*"))
    assert not list(built.work.glob("jobs/*/scratch"))
