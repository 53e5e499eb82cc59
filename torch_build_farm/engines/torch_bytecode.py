"""Compiled modules of torch in the store, since compiling them is half of torch's first import.

The farm makes them in an environment of their own that has torch alone: what foreign code leaves in `__pycache__` would
run in the next project's test. Python itself ignores bytecode whose source has another time or size (PEP 3147). Only
torch's is kept: in an environment without some package, a folder with nothing but the bytecode of that package would be
a namespace package.
"""

from __future__ import annotations

from pathlib import Path, PurePath

from torch_build_farm.core.process import Shell
from torch_build_farm.core.versions import CPython
from torch_build_farm.engines import variables
from torch_build_farm.engines.base import Site

# All get the folder for bytecode as $1 and site-packages as $2, and work in torch's own folder.
_ENTER_TORCH = 'cd "$2/torch"'
# Hard links in place of what is there; they take no room twice.
_LINK = f'{_ENTER_TORCH} && cp -alf "$1/." .'
# Under a name of its own until it is complete; read-only, so that what shares a file does not change it by accident.
_KEEP = (
    f'{_ENTER_TORCH} && rm -rf "$1.new" && mkdir -p "$1.new" '
    '&& find . -name __pycache__ -exec cp -al --parents -t "$1.new" {} + '
    '&& find "$1.new" -name "*.pyc" -exec chmod 444 {} + && mv -T "$1.new" "$1"'
)
_NAME = 'cd "$2" && echo torch-*.dist-info'


def link(site: Site, home: Path, python: CPython) -> None:
    """Link the bytecode of the torch in the environment `home` into it; made now unless the store has it.

    No foreign code may have run in that environment. No failure counts: without bytecode an import only takes longer.
    """
    packages = variables.site_packages(home, python)
    name = _last_line(site.shell, _NAME, packages, packages)
    version = name.removeprefix("torch-").removesuffix(".dist-info")
    if not version or "/" in version or "*" in version:
        return
    kept = site.store.bytecode / python.tag / name
    if not site.shell.run("test", "-d", kept).ok:
        _make(site, kept, version, python)
    _run(site.shell, _LINK, kept, packages)


def _make(site: Site, kept: Path, version: str, python: CPython) -> None:
    """Compile what `import torch` imports, in an environment that has torch `version` and what it requires alone."""
    store, shell = site.store, site.shell
    home = store.environment(f"bytecode-{version}-{python.tag}")
    with store.locked(f"bytecode-{version}-{python.tag}", shell):
        if shell.run("test", "-d", kept).ok:
            return  # another job made it meanwhile
        try:
            done = shell.run(site.uv, "venv", "--clear", "--python", site.python.path, home)
            if done.ok:
                done = shell.run(site.uv, "pip", "install", "--python", home, f"torch=={version}")
            # Isolated (-I), Python also writes bytecode where PYTHONDONTWRITEBYTECODE is set.
            if done.ok and shell.run(home / "bin" / "python", "-I", "-c", "import torch").ok:
                _run(shell, _KEEP, kept, variables.site_packages(home, python))
        finally:
            site.remove(home)


def _run(shell: Shell, script: str, kept: PurePath, packages: PurePath) -> None:
    shell.run("sh", "-c", script, "sh", kept, packages)


def _last_line(shell: Shell, script: str, kept: PurePath, packages: PurePath) -> str:
    done = shell.run("sh", "-c", script, "sh", kept, packages)
    return done.last_line if done.ok else ""
