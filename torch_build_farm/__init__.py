"""One distribution per torch minor from one C++ source tree: planned, rendered, built, repaired, audited, smoke-tested.

Start-up is part of every command, so a module imports at its top only what a run with nothing to do needs anyway.
Imported inside the functions that use them, with `# noqa: PLC0415`:

- docker, and engines.docker with it: 0.1 s or more, and an engine on this machine needs neither
- requests, pypi_simple, twine: whatever speaks to the network
- build, pyproject_hooks, setuptools_scm: whatever builds
- elftools, cxxfilt, psutil, tomlkit: whatever reads libraries, demangles names, counts memory, edits TOML
- pydantic, jinja2, rich, where an audit alone comes by: it needs none of the first two

tests/cli/test_imports.py holds a local run with nothing to do and an audit to it; ci/benchmark.py measures both
start-up and such a run, as ratios.
"""

__version__ = "0.1.0"
