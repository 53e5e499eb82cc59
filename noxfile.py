"""What a contributor runs, each in an environment of its own. `nox -l` lists the sessions; `nox -s lint` runs one.

Everything that the sessions install comes from the package index.
"""

from __future__ import annotations

import os

import nox

nox.needs_version = ">=2025.5.1"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.sessions = ["lint", "types"]

PYPROJECT = nox.project.load_toml("pyproject.toml")
PYTHONS = nox.project.python_versions(PYPROJECT)


def _install(session: nox.Session, *groups: str, farm: bool = True) -> None:
    """Install dependency groups of pyproject.toml, and the farm from this checkout unless `farm` is false."""
    requirements = nox.project.dependency_groups(PYPROJECT, *groups)
    session.install(*(["-e", "."] if farm else []), *requirements)


@nox.session
def lint(session: nox.Session) -> None:
    """Every hook of .pre-commit-config.yaml over all files; mypy has a session of its own."""
    session.install(*[name for name in PYPROJECT["dependency-groups"]["lint"] if name.startswith("pre-commit")])
    # At a terminal the whole diff of the working tree would push the hooks' messages off the screen.
    show_diff = ["--show-diff-on-failure"] if os.environ.get("CI") else []
    session.run("pre-commit", "run", "--all-files", *show_diff, *session.posargs, env={"SKIP": "mypy"})


@nox.session
def types(session: nox.Session) -> None:
    """Run mypy over the package, its scripts and its tests, against the dependencies' real types."""
    _install(session, "dev")
    session.run("mypy", *session.posargs)
    session.run("mypy", "noxfile.py")  # apart from `files`: only here nox itself is at hand


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Run pytest. Name one Python with -p 3.12; what follows -- goes to pytest, such as --run-torch or --everything."""
    _install(session, "test")
    session.run("pytest", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """Build the site; a warning is an error. `nox -s docs -- serve` shows it while you write."""
    _install(session, "docs")
    if session.posargs[:1] == ["serve"]:
        session.run("mkdocs", *session.posargs)
    else:
        session.run("mkdocs", "build", "--strict", *session.posargs)


@nox.session(default=False)
def gen(session: nox.Session) -> None:
    """Write what is generated of the docs: the reference of settings, variants and commands, and the JSON Schemas."""
    _install(session)
    session.run("ci/generate", external=True)


@nox.session(default=False)
def benchmark(session: nox.Session) -> None:
    """Measure the farm against plain cibuildwheel; takes a Docker engine, some 20 GB and an hour."""
    _install(session)
    session.run("python", "ci/benchmark.py", *session.posargs)


@nox.session(default=False)
def mutants(session: nox.Session) -> None:
    """Take out each protection of the guarding modules in turn, and see that a test notices: 80 minutes on two CPUs."""
    _install(session, "test", "mutants")
    session.run("python", "ci/mutate.py", *session.posargs)


@nox.session(default=False)
def hostile(session: nox.Session) -> None:
    """Hand the farm thousands of hostile inputs of each kind; `nox -s hostile -- 10000` says how many."""
    _install(session, "test")
    session.run("python", "-m", "tests.hostile.box", "--all", *(session.posargs or ["5000"]))
