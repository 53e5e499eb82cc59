"""What commands import that have little to do (torch_build_farm/__init__.py has the rule)."""

import subprocess
import sys

from tests.conftest import CHECKOUT, Farm

# Runs the command, then prints the modules it left on standard error.
RUN = """
import sys
from pathlib import Path
from torch_build_farm.cli.main import main
code = main(sys.argv[2:], Path(sys.argv[1]))
print(*sys.modules, file=sys.stderr)
sys.exit(code)
"""
BUILDS_AND_FETCHES = {"build", "docker", "elftools", "pypi_simple", "pyproject_hooks", "requests", "setuptools_scm"}


def test_a_local_run_with_nothing_to_do_imports_little(tiny: Farm) -> None:
    """Its start is most of its time; the Docker client alone would add a quarter."""
    assert tiny("render", "--torch", "2.8").code == 0
    words = tiny.command("render", "--torch", "2.8")[2:]
    again = subprocess.run(
        [sys.executable, "-c", RUN, CHECKOUT, *words],
        env=tiny.environment,
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "nothing to do" in again.stdout
    needless = BUILDS_AND_FETCHES | {"cmake", "torch_build_farm.audit", "torch_build_farm.engines.docker"}
    needless |= {"torch_build_farm.releases.sdk.cache", "torch_build_farm.releases.sdk.wheel"}
    assert needless & set(again.stderr.split()) == set()


def test_an_audit_imports_little() -> None:
    """It is to be over in two seconds, of which imports of what builds and fetches would take one."""
    code = "import sys, torch_build_farm.cli.main, torch_build_farm.cli.audit; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=CHECKOUT)
    needless = BUILDS_AND_FETCHES | {"jinja2", "pydantic", "tomlkit", "torch_build_farm.pipeline.runner"}
    assert needless & set(loaded.stdout.split()) == set()


def test_the_list_of_commands_imports_no_command() -> None:
    """`--help` and `--version` end the process inside the parser, so the modules are printed at exit."""
    code = "import atexit, sys; atexit.register(lambda: print(*sys.modules, file=sys.stderr))\n"
    code += "from torch_build_farm.cli.main import main; main(['--help'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=CHECKOUT)
    assert "smoke-test wheels" in done.stdout
    needless = BUILDS_AND_FETCHES | {"jinja2", "pydantic", "tomlkit", "torch_build_farm.cli.run"}
    assert needless & set(done.stderr.split()) == set()
