"""Packages in a namespace (PEP 420) that other distributions share, and add-ons to a package of another distribution."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.family import family, make_wheel, project, torch, variant
from torch_build_farm.core import tools
from torch_build_farm.core.errors import RelocationError
from torch_build_farm.wheels import one_name

FOO: Mapping[str, str | bytes] = {
    "acme/foo/__init__.py": "from . import deep\nVALUE = 'foo of @'\n",
    "acme/foo/deep.py": "import acme.foo\n",
}
BAR: Mapping[str, str | bytes] = {"acme/bar/__init__.py": "VALUE = 'bar of @'\n"}


class Environment:
    """A virtual environment that real installers install into, without an index."""

    def __init__(self, folder: Path) -> None:
        self.home, self.made = folder / "env", folder / "made"
        self._run(tools.uv(), "venv", "--quiet", "--no-config", "--python", sys.executable, self.home)
        self.python = self.home / "bin" / "python"

    def _run(self, *command: str | Path) -> None:
        done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    def install(self, *wheels: Path) -> None:
        command: list[str | Path] = [tools.uv(), "pip", "install", "--quiet", "--no-config", "--no-deps", "--no-index"]
        self._run(*command, "--python", self.python, *wheels)

    def uninstall(self, *names: str) -> None:
        self._run(tools.uv(), "pip", "uninstall", "--quiet", "--no-config", "--python", self.python, *names)

    def says(self, code: str) -> str:
        return self.output(self.python, "-I", "-c", code)

    def output(self, *command: str | Path) -> str:
        """What a command prints, or the last line of its errors."""
        done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
        return done.stdout.strip() or done.stderr.strip().splitlines()[-1]

    def distribution(self, name: str, files: Mapping[str, str | bytes], minor: str, *packages: str) -> list[Path]:
        """A variant of `files`, where @ is the minor, and its plain wheel."""
        own = project(name, *packages)
        texts = {path: text.replace("@", minor) if isinstance(text, str) else text for path, text in files.items()}
        wheel = variant(self.made, own, minor, "1.0", texts)
        return [wheel, one_name.write_plain(family(own, wheel, {"2.8": "1.0", "2.9": "1.0"}), self.made)]


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    made = Environment(tmp_path)
    made.install(torch(made.made, "2.9.0"))
    return made


def test_two_distributions_share_a_namespace(environment: Environment) -> None:
    """Neither owns a file of the other, nor acme/ itself."""
    foo = environment.distribution("acme-foo", FOO, "2.9", "acme.foo")
    bar = environment.distribution("acme-bar", BAR, "2.9", "acme.bar")
    environment.install(*foo, *bar)
    both = "import acme.foo, acme.bar; print(acme.foo.VALUE, acme.bar.VALUE, acme.__spec__.origin)"
    assert environment.says(both) == "foo of 2.9 bar of 2.9 None"
    environment.uninstall("acme-foo", "acme-foo-torch29")
    assert environment.says("import acme.bar; print(acme.bar.VALUE)") == "bar of 2.9"
    assert environment.says("import acme.foo") == "ModuleNotFoundError: No module named 'acme.foo'"
    environment.install(*foo)
    environment.uninstall("acme-bar", "acme-bar-torch29")
    assert environment.says("import acme.foo; print(acme.foo.deep.__name__)") == "acme.foo.deep"


def test_a_neighbour_in_the_namespace_imports_where_a_variant_is_missing(environment: Environment) -> None:
    environment.install(*environment.distribution("acme-foo", FOO, "2.8", "acme.foo"))
    environment.install(make_wheel(environment.made, "acme-bar", "1.0", BAR))
    assert environment.says("import acme.bar; print(acme.bar.VALUE)") == "bar of @"
    refused = "try:\n  import acme.foo\nexcept ImportError as error:\n  print(str(error).splitlines()[0])"
    assert environment.says(refused) == "acme.foo has no variant for torch 2.9.0 here."


def test_an_add_on_to_a_package_of_another_distribution(environment: Environment) -> None:
    """The core, which needs no torch, owns the package; the variants add a package and a single module to it."""
    core = {"acme/__init__.py": "VALUE = 'core'\n", "acme/plain.py": "VALUE = 'plain'\n"}
    added: Mapping[str, str | bytes] = {
        "acme/solver/__init__.py": "from acme import plain\nVALUE = 'solver of @ and ' + plain.VALUE\n",
        "acme/fast.py": "import acme.solver\nVALUE = 'fast of @'\n",
    }
    environment.install(make_wheel(environment.made, "acme", "1.0", core))
    environment.install(*environment.distribution("acme-cpu", added, "2.9", "acme.solver", "acme.fast"))
    code = "import acme.fast; print(acme.VALUE, acme.solver.VALUE, acme.fast.VALUE, sep=', ')"
    assert environment.says(code) == "core, solver of 2.9 and plain, fast of 2.9"
    environment.uninstall("acme-cpu", "acme-cpu-torch29")
    assert environment.says("import acme.plain; print(acme.plain.VALUE)") == "plain"


SHARED_BY_PKGUTIL = "__path__ = __import__('pkgutil').extend_path(__path__, __name__)\n"
SHARED_BY_SETUPTOOLS = "__import__('pkg_resources').declare_namespace(__name__)\n"


@pytest.mark.parametrize(
    ("files", "packages"),
    [
        (FOO, '["acme.foo"]'),
        ({**FOO, **BAR, "acme/py.typed": ""}, '["acme.bar", "acme.foo"]'),
        ({"acme/geo/foo/__init__.py": "", "acme/geo/_fast.so": b""}, '["acme.geo"]'),
        ({"acme/geo/foo/__init__.py": ""}, '["acme.geo.foo"]'),
        ({**FOO, "acme/__init__.py": SHARED_BY_PKGUTIL}, '["acme.foo"]'),
        ({**FOO, "acme/__init__.py": SHARED_BY_SETUPTOOLS}, '["acme.foo"]'),
    ],
)
def test_a_namespace_is_not_the_projects_own(tmp_path: Path, files: Mapping[str, str | bytes], packages: str) -> None:
    """Its dispatcher would be in the way of every other distribution that has packages in it."""
    with pytest.raises(RelocationError, match="acme is a namespace") as error:
        variant(tmp_path, project("acme-foo", "acme"), "2.9", "1.0", files)
    assert f"packages = {packages}" in error.value.next_step


@pytest.mark.parametrize(
    "files",
    [
        {"acme/mine.py": ""},  # a package without __init__.py, but with modules
        {"acme/__init__.py": SHARED_BY_PKGUTIL, "acme/mine.py": ""},
        {"acme/__init__.py": "", "acme/foo/__init__.py": ""},
        {"acme.py": ""},
    ],
)
def test_a_package_with_code_of_its_own_is_no_namespace(tmp_path: Path, files: Mapping[str, str | bytes]) -> None:
    assert variant(tmp_path, project("acme"), "2.9", "1.0", files).is_file()
