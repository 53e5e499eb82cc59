"""Who calls the farm, and what the engine has to give."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import Farm, need
from tests.integration.docker.conftest import Docker, PrivateEngine
from torch_build_farm.core.store import TorchStore
from torch_build_farm.engines.docker.containers import Labels

NOBODY = 65534


@pytest.mark.root
def test_a_user_who_is_not_root(contained: Farm, docker: Docker, tmp_path: Path, root: None) -> None:
    """What containers write into the store belongs to the user, so that nothing is left that the user cannot remove."""
    socket = Path("/var/run/docker.sock")
    need(socket.exists(), "needs the engine's usual socket")
    need(shutil.which("setpriv") is not None, "needs setpriv (util-linux)")
    store = tmp_path / "store"
    contained.env |= {
        "TORCH_BUILD_FARM_STORE": str(store),
        "TORCH_BUILD_FARM_STATE": str(tmp_path / "state"),
        "HOME": str(tmp_path / "home"),
    }
    for folder in (store, contained.work, tmp_path / "home", tmp_path / "state"):
        folder.mkdir()
        os.chown(folder, NOBODY, NOBODY)
    contained.edit("pyproject.toml", 'imports = ["tiny", "tiny._core"]', 'imports = ["tiny._core"]\nsmoke-script = "smoke.py"')  # fmt: skip
    (contained.project / "smoke.py").write_text(
        "import os, tiny\nprint('user', os.getuid(), 'answer', tiny.answer())\n"
    )
    # Read access to everything, since the tests' own folders may be root's alone.
    become = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", f"--groups={socket.stat().st_gid}",
              "--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]  # fmt: skip
    try:
        done = subprocess.run(
            [*become, *contained.command("run", "--torch", "2.8")],
            env=contained.environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        assert f"user {NOBODY} answer 42" in done.stdout
        foreign = subprocess.run(["find", str(store), str(contained.work), "-not", "-uid", str(NOBODY)], capture_output=True, text=True, check=True)  # fmt: skip
        assert foreign.stdout == ""
    finally:
        owner = f"label=torch-build-farm.store={Labels.of(TorchStore(store.resolve(), ''), '').store}"
        docker("rmi", *docker("images", "--quiet", "--filter", owner).split())
        shutil.rmtree(store)


def test_a_user_whom_the_engine_does_not_know(contained: Farm, docker: Docker, tmp_path: Path, root: None) -> None:
    need(Path("/var/run/docker.sock").exists(), "needs the engine's usual socket")
    become = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]  # fmt: skip
    contained.env["HOME"] = str(tmp_path)
    words = contained.command("build", "--torch", "2.8")
    done = subprocess.run([*become, *words], env=contained.environment, capture_output=True, text=True, check=False)
    assert done.returncode == 18, done.stdout + done.stderr
    assert "permission denied" in done.stderr
    assert "group docker" in done.stderr


def test_an_engine_with_nvidias_runtime_and_no_gpu(contained: Farm, private_engine: PrivateEngine) -> None:
    """The wheel is tested all the same, and the log says without what."""
    private_engine.start("--add-runtime", f"nvidia={shutil.which('runc')}")
    contained.env["DOCKER_HOST"] = private_engine.host
    answer = contained("run", "--torch", "2.8", "--smoke", "import", "--json")
    assert answer.code == 0, answer.err
    assert "--gpus=all" in contained.log("tiny-torch28-cp311")
    assert private_engine.docker.containers() == []
