"""SIGINT, SIGTERM and SIGKILL at any stage: nothing is left running, nothing half-written, and the next run goes on."""

import contextlib
import json
import os
import random
import signal
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.conftest import Farm
from tests.integration.test_bad_input import hang, waiting
from tests.until import DEADLINE_S, until
from torch_build_farm.core.store import TorchStore, default_folder

pytestmark = pytest.mark.torch


def left_running(farm: Farm) -> list[str]:
    """Live processes with the work folder, or its environments in the store, in command line or environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        if int(folder.name) == os.getpid():
            continue
        try:
            text = (folder / "cmdline").read_bytes() + (folder / "environ").read_bytes()
        except OSError:
            continue
        scope = str(TorchStore.at(default_folder(), farm.work).environment("")).encode()
        if str(farm.work).encode() in text or scope in text:
            found.append((folder / "cmdline").read_text().replace("\0", " "))
    return found


def whole(farm: Farm) -> None:
    """Every record and every wheel that is there can be read to its end."""
    for record in farm.work.glob("jobs/*/records/*.json"):
        json.loads(record.read_text())
    for wheel in farm.work.glob("dist/*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            assert archive.testzip() is None


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_a_signal_while_building(tiny: Farm, tmp_path: Path, number: signal.Signals, code: int) -> None:
    gate = hang(tiny, tmp_path)
    farm = tiny.start("build", "--torch", "2.8", "2.9")
    until(lambda: waiting(tiny))
    farm.send_signal(number)
    out, _ = farm.communicate(timeout=DEADLINE_S)
    assert farm.returncode == code, out
    until(lambda: not left_running(tiny))
    whole(tiny)
    if number != signal.SIGKILL:
        assert "run the same command again to go on" in out
    gate.touch()
    again = tiny("build", "--torch", "2.8", "2.9", "--json")
    assert again.code == 0, again.err
    kept = [stage["stage"] for job in again.document["jobs"] for stage in job["stages"] if stage["kept"]]
    assert kept == ["render", "render"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_signal_while_smoke_testing(tiny: Farm, number: signal.Signals) -> None:
    tiny.edit(
        "pyproject.toml",
        "[tool.torch-build-farm]",
        "[tool.torch-build-farm]\nsmoke-script = 'smoke.py'\nexclude = ['/smoke.py']",
    )
    (tiny.project / "smoke.py").write_text("import time\nprint('waiting', flush=True)\ntime.sleep(3600)\n")
    farm = tiny.start("run", "--torch", "2.8")
    until(lambda: waiting(tiny))
    assert left_running(tiny)
    farm.send_signal(number)
    farm.communicate(timeout=DEADLINE_S)
    until(lambda: not left_running(tiny))
    (tiny.project / "smoke.py").write_text("print('over')\n")
    again = tiny("run", "--torch", "2.8", "--json")
    assert again.code == 0, again.err
    assert [stage["kept"] for stage in again.document["jobs"][0]["stages"]] == [True, True, True, True, True, False]
    store = TorchStore.at(default_folder(), tiny.work)
    assert not list(store.environment("").glob("*"))


def test_ctrl_c_in_a_terminal_reaches_the_whole_group(tiny: Farm, tmp_path: Path) -> None:
    hang(tiny, tmp_path)
    farm = subprocess.Popen(
        tiny.command("build", "--torch", "2.8"), env=tiny.environment, start_new_session=True, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    until(lambda: waiting(tiny))
    os.killpg(farm.pid, signal.SIGINT)
    out, _ = farm.communicate(timeout=DEADLINE_S)
    assert farm.returncode == 130, out
    assert "Traceback" not in out
    until(lambda: not left_running(tiny))


def open_files(pid: int) -> set[str]:
    """What a process has open: paths, and pipes by their number."""
    targets = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            targets.add(str(descriptor.readlink()))
    return targets


def test_a_second_signal_ends_the_farm_at_once(make_farm: Callable[..., Farm], tmp_path: Path) -> None:
    farm = make_farm("tiny")
    farm.edit(
        "pyproject.toml",
        "[tool.torch-build-farm]",
        "[tool.torch-build-farm]\nbefore-build = ['trap \"\" TERM; echo waiting; sleep 600 & wait; sleep 600']",
    )
    started = farm.start("build", "--torch", "2.8")
    until(lambda: waiting(farm))
    # While the supervisor is suspended, a farm that ends in order would wait for it for ever.
    children = psutil.Process(started.pid).children()
    (supervisor,) = [process for process in children if any("supervise" in word for word in process.cmdline())]
    lifeline = str(Path(f"/proc/{supervisor.pid}/fd/0").readlink())
    supervisor.suspend()
    try:
        started.send_signal(signal.SIGTERM)
        until(lambda: lifeline not in open_files(started.pid))  # the farm closes it, for the supervisor to end
        started.send_signal(signal.SIGTERM)
        assert started.wait(DEADLINE_S) == 143
    finally:
        supervisor.resume()
    until(lambda: not left_running(farm))


def test_killed_at_any_moment_it_ends_with_the_same_wheels(
    tiny: Farm, make_farm: Callable[..., Farm], tmp_path: Path
) -> None:
    words = ("run", "--torch", "2.8", "--smoke", "import")
    rng = random.Random(8)
    delay = 0.01  # no machine starts the farm in that time; the delays grow until one is enough for what is left to do
    kills = 0
    while True:
        farm = tiny.start(*words)
        try:
            farm.wait(delay)
            break
        except subprocess.TimeoutExpired:
            farm.send_signal(rng.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM]))
            farm.wait(DEADLINE_S)
            kills += 1
        whole(tiny)
        delay *= 1.35
        assert delay < DEADLINE_S
    assert farm.returncode == 0
    assert kills >= 5
    until(lambda: not left_running(tiny))
    assert [stage["kept"] for stage in json.loads(tiny(*words, "--json").out)["jobs"][0]["stages"]] == [True] * 6
    (wheel,) = tiny.work.glob("dist/*.whl")
    undisturbed = Farm(tiny.project, tmp_path / "other")
    assert undisturbed("build", "--torch", "2.8").code == 0
    (same,) = undisturbed.work.glob("dist/*.whl")
    assert wheel.read_bytes() == same.read_bytes()
