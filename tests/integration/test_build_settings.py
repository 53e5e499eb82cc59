"""Settings that a build needs from outside its source, each in both engines: real back ends, in torch's environment."""

from __future__ import annotations

import http.server
import json
import re
import subprocess
import sysconfig
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import PROJECTS, Answer, Farm, need

pytestmark = pytest.mark.torch
IN_BOTH_ENGINES = pytest.mark.parametrize("engine", ["local", pytest.param("docker", marks=pytest.mark.docker)])


@pytest.fixture
def scripted(make_farm: Callable[..., Farm]) -> Farm:
    """A project whose setup.py decides everything."""
    return make_farm("scripted")


def settings(farm: Farm, *lines: str) -> None:
    """Add lines to the farm's table."""
    farm.edit("pyproject.toml", "[tool.torch-build-farm]\n", "\n".join(["[tool.torch-build-farm]", *lines, ""]))


def error(answer: Answer) -> Any:
    """The error of the one job."""
    (job,) = answer.document["jobs"]
    return job["error"]


@IN_BOTH_ENGINES
def test_what_setup_py_imports_undeclared(scripted: Farm, engine: str) -> None:
    """As flash-attn's setup.py does. The error names the module, and the setting that it names mends it."""
    scripted.engine = engine
    scripted.edit("setup.py", "# imports of a test", "import psutil\nimport yaml")
    answer = scripted("build", "--torch", "2.9", "--json")
    assert error(answer)["kind"] == "BuildError"
    assert "the module psutil" in error(answer)["what"]
    assert 'build-requires = ["psutil"]' in error(answer)["next"]

    settings(scripted, 'build-requires = ["psutil"]')
    answer = scripted("build", "--torch", "2.9", "--json")
    assert 'build-requires = ["PyYAML"]' in error(answer)["next"]

    scripted.edit("pyproject.toml", '["psutil"]', '["psutil", "PyYAML"]')
    answer = scripted("build", "--torch", "2.9", "--json")
    assert answer.code == 0, answer.err


@IN_BOTH_ENGINES
@pytest.mark.parametrize(
    ("back_end", "distribution"), [("mesonpy", "meson-python"), ("scikit_build_core.build", "scikit_build_core")]
)
def test_a_back_end_that_is_not_required(scripted: Farm, engine: str, back_end: str, distribution: str) -> None:
    """The farm's own back end imports the first; the front end imports the second."""
    scripted.engine = engine
    tables = f"""
[build-system]
requires = ["setuptools"]
build-backend = "{back_end}"
[project]
name = "scripted"
version = "1.0"
[tool.torch-build-farm]
"""
    scripted.edit("pyproject.toml", "[tool.torch-build-farm]\n", tables)
    (scripted.project / "setup.py").unlink()
    answer = scripted("build", "--torch", "2.9", "--json")
    assert f"the module {back_end.partition('.')[0]}" in error(answer)["what"]
    assert f'build-requires = ["{distribution}"]' in error(answer)["next"]


@IN_BOTH_ENGINES
def test_what_a_back_end_requires_in_vain_is_the_error(scripted: Farm, engine: str) -> None:
    """In a container the back end is asked in one of its own, whose end is the farm's own doing."""
    scripted.engine = engine
    scripted.edit("setup.py", "# settings of a test", "requires = ['no requirement at all']")
    scripted.edit("setup.py", "setup(name", "setup(setup_requires=requires, name")
    answer = scripted("build", "--torch", "2.9", "--json")
    assert error(answer)["kind"] == "BuildError", error(answer)
    assert "no requirement at all" in error(answer)["what"]


RECORDING_BACK_END = """
import json
import os
import re
from setuptools.build_meta import *
from setuptools import build_meta


def get_requires_for_build_wheel(config_settings=None):
    print("\\nfor others:", os.environ["CIBUILDWHEEL"], os.environ["CI"], flush=True)
    print("\\nasked with", json.dumps(config_settings, sort_keys=True), flush=True)
    return []


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    print("\\nbuilt for others:", os.environ["CIBUILDWHEEL"], os.environ["CI"], flush=True)
    print("\\nbuilt with", json.dumps(config_settings, sort_keys=True), flush=True)
    return build_meta.build_wheel(wheel_directory)
"""


@IN_BOTH_ENGINES
def test_every_hook_gets_the_config_settings_as_they_are(scripted: Farm, engine: str) -> None:
    scripted.engine = engine
    (scripted.project / "back_end.py").write_text(RECORDING_BACK_END)
    build_system = 'requires = ["setuptools"]\nbuild-backend = "back_end"\nbackend-path = ["."]'
    scripted.edit("pyproject.toml", "[tool.", f"[build-system]\n{build_system}\n[tool.")
    given = {
        "--build-option": ["--cpp_ext", "--with space"],
        "a.b": 'it\'s "quoted" [and] {package} $HOME \\\\ `x` #; =',
        "empty": "",
        "lines": "one\ntwo",
        "single": ["alone"],
    }
    keys = [f"{json.dumps(key)} = {json.dumps(value)}" for key, value in given.items()]
    settings(scripted, "config-settings = { " + ", ".join(keys) + " }")
    answer = scripted("build", "--torch", "2.9", "--json")
    assert answer.code == 0, answer.err
    log = scripted.log(answer.document["jobs"][0]["job"])
    # Front ends have no way to pass a list of one.
    expected = json.dumps({**given, "single": "alone"}, sort_keys=True)
    assert f"\nasked with {expected}\n" in log
    assert f"\nbuilt with {expected}\n" in log
    assert "\nfor others: 1 true\n" in log
    assert "\nbuilt for others: 1 true\n" in log


@IN_BOTH_ENGINES
def test_an_option_of_setup_py(scripted: Farm, engine: str) -> None:
    """As apex's setup.py has them. Another option is another build."""
    scripted.engine = engine
    option = "if '--answer-7' in sys.argv:\n    sys.argv.remove('--answer-7')\n    extension.define_macros = [('ANSWER', '7')]"
    scripted.edit("setup.py", "# settings of a test", f"import sys\n{option}")
    settings(scripted, 'config-settings = { "--build-option" = "--answer-7" }')
    smoke = "import scripted._core\nprint(scripted._core.answer())\n"
    (scripted.project / "smoke.py").write_text(smoke)
    answer = scripted("build", "--torch", "2.9", "--json")
    assert answer.code == 0, answer.err
    assert "-DANSWER=7" in scripted.log(answer.document["jobs"][0]["job"])
    assert scripted("build", "--torch", "2.9", "--json").document["jobs"][0]["status"] == "kept"
    scripted.edit("pyproject.toml", "--answer-7", "--verbose")
    answer = scripted("build", "--torch", "2.9", "--json")
    assert answer.document["jobs"][0]["status"] == "done"
    assert "-DANSWER=7" not in scripted.log(answer.document["jobs"][0]["job"])


@IN_BOTH_ENGINES
def test_a_define_for_scikit_build_core(make_farm: Callable[..., Farm], engine: str) -> None:
    farm = make_farm("tiny")
    farm.engine = engine
    farm.edit("CMakeLists.txt", "install(", 'message(STATUS "X is [${X}], C++ ${CMAKE_CXX_STANDARD}")\ninstall(')
    settings(farm, 'config-settings = { "cmake.define.X" = "a b", "cmake.define.CMAKE_CXX_STANDARD" = "20" }')
    answer = farm("build", "--torch", "2.9", "--json")
    assert answer.code == 0, answer.err
    assert "X is [a b], C++ 20\n" in farm.log(answer.document["jobs"][0]["job"])


MESON_BUILD = """
project('scripted', 'c', version: '1.0')
py = import('python').find_installation(pure: false)
py.extension_module('_core', 'core.c', subdir: 'scripted', install: true,
                    c_args: '-DANSWER=' + get_option('answer').to_string())
py.install_sources('scripted/__init__.py', subdir: 'scripted')
"""


@IN_BOTH_ENGINES
def test_arguments_of_meson(scripted: Farm, engine: str) -> None:
    scripted.engine = engine
    (scripted.project / "setup.py").unlink()
    (scripted.project / "meson.build").write_text(MESON_BUILD)
    (scripted.project / "meson_options.txt").write_text("option('answer', type: 'integer', value: 1)\n")
    tables = """
[build-system]
requires = ["meson-python"]
build-backend = "mesonpy"
[project]
name = "scripted"
version = "1.0"
[tool.torch-build-farm]
config-settings = { setup-args = ["-Danswer=7", "-Dbuildtype=debugoptimized"] }
"""
    scripted.edit("pyproject.toml", "[tool.torch-build-farm]\n", tables)
    answer = scripted("build", "--torch", "2.9", "--json")
    assert answer.code == 0, answer.err
    assert re.search("answer +: 7\n", scripted.log(answer.document["jobs"][0]["job"]))


HEADERS = """
import torch
extension.sources = ["core.cpp"]
extension.include_dirs = [f"{torch.__path__[0]}/include"]
extension.extra_compile_args = ["-std=c++17", "-O0", "-g0"]
extension.library_dirs = [f"{torch.__path__[0]}/lib"]
extension.libraries = ["c10", "torch_cpu"]
"""


@IN_BOTH_ENGINES
def test_an_override_gives_one_minor_another_standard(scripted: Farm, engine: str) -> None:
    """torch 2.15's headers want C++20, and setup.py says C++17. The record of the other minor stays as it was."""
    scripted.engine = engine
    scripted.edit("setup.py", "# settings of a test", HEADERS)
    source = scripted.project / "core.c"
    source.with_suffix(".cpp").write_text(f"#include <ATen/ATen.h>\n{source.read_text()}")
    source.unlink()
    answer = scripted("build", "--torch", "2.9", "2.15", "--json")
    nine, fifteen = answer.document["jobs"]
    assert nine["status"] == "done", answer.err
    assert fifteen["error"]["kind"] == "CompileError"
    assert "C++20 or later compatible compiler is required" in fifteen["error"]["what"]
    assert "[[tool.torch-build-farm.overrides]]" in fifteen["error"]["next"]

    override = """
[[tool.torch-build-farm.overrides]]
torch = ">=2.15"
before-build = ["sed -i s/-std=c++17/-std=c++20/ setup.py"]
"""
    with (scripted.project / "pyproject.toml").open("a") as stream:
        stream.write(override)
    answer = scripted("build", "--torch", "2.9", "2.15", "--json")
    assert [job["status"] for job in answer.document["jobs"]] == ["kept", "done"], answer.err
    assert answer.document["jobs"][0]["wheel"]["sha256"] == nine["wheel"]["sha256"]


FETCHES = '''
import os
import urllib.request
from pathlib import Path
from setuptools.command.build_ext import build_ext


class Fetch(build_ext):
    """Packs what somebody else has built, unless it is told to compile."""

    def run(self):
        if os.getenv("SCRIPTED_FORCE_BUILD", "FALSE") == "TRUE":
            return super().run()
        target = Path(self.get_ext_fullpath("scripted._core"))
        target.parent.mkdir(parents=True, exist_ok=True)
        with urllib.request.urlopen("@URL@") as answer:
            target.write_bytes(answer.read())
'''


@dataclass
class Shelf:
    """A server on the loopback that hands out one library, and counts how often."""

    url: str
    served: list[str]


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Shelf]:
    library = tmp_path / "prebuilt.so"
    source = PROJECTS / "scripted" / "core.c"
    include = f"-I{sysconfig.get_path('include')}"
    subprocess.run(["cc", "-shared", "-fPIC", include, "-o", str(library), str(source)], check=True)
    served: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            served.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(library.read_bytes())

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield Shelf(f"http://127.0.0.1:{server.server_port}/prebuilt.so", served)
        server.shutdown()


def fetching(farm: Farm, shelf: Shelf) -> None:
    """Let setup.py pack a library that it downloads, as those of causal-conv1d and flash-attn do."""
    farm.edit("setup.py", "# imports of a test", FETCHES.replace("@URL@", shelf.url))
    farm.edit("setup.py", "setup(name", 'setup(cmdclass={"build_ext": Fetch}, name')


@IN_BOTH_ENGINES
def test_a_build_has_no_network_but_a_loopback(scripted: Farm, shelf: Shelf, engine: str) -> None:
    scripted.engine = engine
    fetching(scripted, shelf)
    answer = scripted("build", "--torch", "2.9", "--json")
    assert error(answer)["kind"] == "BuildError"
    assert "builds have no network" in error(answer)["what"]
    assert 'environment = { SCRIPTED_FORCE_BUILD = "TRUE" }' in error(answer)["next"]
    assert shelf.served == []

    interfaces = "test $(wc -l < /proc/net/dev) = 3"  # two lines of heading, and the loopback
    settings(scripted, 'environment = { SCRIPTED_FORCE_BUILD = "TRUE" }', f'before-build = ["{interfaces}"]')
    answer = scripted("build", "--torch", "2.9", "--json")
    assert answer.code == 0, answer.err


def test_a_build_with_a_network(scripted: Farm, shelf: Shelf) -> None:
    fetching(scripted, shelf)
    settings(scripted, "network = true")
    answer = scripted("build", "--torch", "2.9", "--json")
    assert answer.code == 0, answer.err
    assert len(shelf.served) == 1


def test_where_no_name_space_is_to_be_had_what_compiles_nothing_is_refused(scripted: Farm, shelf: Shelf) -> None:
    """In a user name space that allows no network name spaces."""
    limited = ["unshare", "--user", "--map-root-user", "sh", "-c"]
    script = 'echo 0 > /proc/sys/user/max_net_namespaces && exec "$@"'
    need(subprocess.run([*limited, script, "sh", "true"], check=False).returncode == 0, "needs user name spaces")

    def build() -> Answer:
        command = [*limited, script, "sh", *scripted.command("build", "--torch", "2.9", "--json")]
        done = subprocess.run(command, env=scripted.environment, capture_output=True, text=True, check=False)
        return Answer(done.returncode, done.stdout, done.stderr)

    fetching(scripted, shelf)
    answer = build()
    assert answer.err.count("builds can use the network") == 1, answer.err
    assert len(shelf.served) == 1
    assert "the build compiled nothing" in error(answer)["what"]
    assert "scripted/_core" in error(answer)["what"]
    assert 'environment = { SCRIPTED_FORCE_BUILD = "TRUE" }' in error(answer)["next"]

    settings(scripted, 'environment = { SCRIPTED_FORCE_BUILD = "TRUE" }')
    answer = build()
    assert answer.code == 0, answer.err
    assert len(shelf.served) == 1
