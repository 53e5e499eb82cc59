"""The run paths that a CPython's own linker flags add to what is linked by them."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import CHECKOUT
from torch_build_farm.core.store import TorchStore
from torch_build_farm.core.versions import CPython, Minor
from torch_build_farm.engines.docker import contents
from torch_build_farm.engines.interpreters import run_paths_of
from torch_build_farm.engines.local import LocalEngine
from torch_build_farm.project.plan import Job
from torch_build_farm.project.settings import load
from torch_build_farm.wheels.wheel import read_library

BUILD = """
from setuptools import Distribution, Extension
distribution = Distribution({"ext_modules": [Extension("probe", ["probe.c"])]})
command = distribution.get_command_obj("build_ext")
command.inplace = True
command.ensure_finalized()
command.run()
"""


@pytest.mark.parametrize(
    ("flags", "folders"),
    [
        ("-L/a -Wl,-rpath,/a -L/a -Wl,-rpath,/a", ("/a",)),
        ("gcc -shared -Wl,-rpath=/a:/b -Wl,--as-needed", ("/a", "/b")),
        ("-Wl,-O1,-rpath,/a,-z,relro", ("/a",)),
        ("-Wl,-rpath -Wl,/a", ("/a",)),
        ("-Xlinker -rpath -Xlinker /a -Wl,--rpath=/b", ("/a", "/b")),
        ("-Wl,-R/a -Wl,-R,/b", ("/a", "/b")),
        ("'-Wl,-rpath,/with space'", ("/with space",)),
        ("-Wl,-rpath-link,/a -Wl,-Bsymbolic -R -Wl,-rpath", ()),
        ("-Wl,-rpath,'/a", ()),
        ("", ()),
    ],
)
def test_run_paths_of_flags(flags: str, folders: tuple[str, ...]) -> None:
    assert run_paths_of(flags) == folders


def test_the_local_engine_knows_what_setuptools_links(tmp_path: Path) -> None:
    """Whatever the running CPython's flags add to an extension, it is among what the engine says."""
    (tmp_path / "probe.c").write_text("#include <Python.h>\nPyMODINIT_FUNC PyInit_probe(void) { return 0; }\n")
    engine = LocalEngine(load(CHECKOUT, CHECKOUT), TorchStore(tmp_path / "store", ""))
    job = Job("x", "1.0", engine.project.variants[Minor(2, 9)], CPython.running())
    python = engine.interpreters(job.variant)[job.python].path
    version = subprocess.run([python, "-c", "import sys; print(sys.base_prefix)"], capture_output=True, check=True)
    if Path(version.stdout.decode().strip()) != Path(sys.base_prefix):
        pytest.skip("uv prefers another CPython of this version")
    subprocess.run([sys.executable, "-c", BUILD], cwd=tmp_path, check=True, capture_output=True)
    (built,) = tmp_path.glob("probe*.so")
    linked = read_library("probe.so", built.read_bytes())
    assert linked
    assert set(filter(None, linked.run_paths)) <= set(engine.interpreter_run_paths(job))


def test_an_images_probe_states_linker_flags() -> None:
    text = "python\tcp311\t3.11.7\t/opt/python/cp311-cp311/bin/python\t1.2\nlinker-flags\tcp311\t-Wl,-rpath,/opt/lib\n"
    answer = contents._parse(text)
    assert answer.linker_flags == {"cp311": "-Wl,-rpath,/opt/lib"}
