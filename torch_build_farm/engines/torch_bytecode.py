"""Compiled modules of torch in the store, since compiling them is half of torch's first import.

The farm makes them in an environment of their own that has torch alone: what foreign code leaves in `__pycache__` would
run in the next project's test. Python itself ignores bytecode whose source has another time or size (PEP 3147). Only
torch's is kept: in an environment without some package, a folder with nothing but the bytecode of that package would be
a namespace package.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePath

from torch_build_farm.core.process import Completed
from torch_build_farm.core.versions import CPython
from torch_build_farm.engines import variables
from torch_build_farm.engines.base import Site

# Both get the store's folder for bytecode as $1 and site-packages as $2. `kept` is the folder of one release, named
# after its .dist-info.
_ENTER_TORCH = 'kept=$1/$(cd "$2" && echo torch-*.dist-info) && cd "$2/torch"'
# In place of what is there: hard links, which take no room twice, or copies; else the name of what the store lacks.
_PUT = f'{_ENTER_TORCH} && if [ -d "$kept" ]; then cp "$3" "$kept/." .; else echo "lacks: $kept"; fi'
_LINKS, _COPIES = PurePath("-alf"), PurePath("-af")
# Under a name of its own until it is complete; read-only, so that what shares a file does not change it by accident.
# $3 is site-packages where torch wrote to it, which in containers is a folder apart.
_KEEP = (
    'kept=$1/$(cd "$2" && echo torch-*.dist-info) && cd "$3/torch" && rm -rf "$kept.new" && mkdir -p "$kept.new" '
    '&& find . -name __pycache__ -type d -exec cp -al --parents -t "$kept.new" {} + '
    '&& find "$kept.new" -name "*.pyc" -type f -exec chmod 444 {} + && mv -T "$kept.new" "$kept"'
)
_LACKS = re.compile(r"lacks: .*/torch-([\w.+!]+)\.dist-info")


def put(site: Site, home: Path, python: CPython) -> None:
    """Put the bytecode of the torch in the environment `home` into it; made now unless the store has it.

    No foreign code may have run in that environment. No failure counts: without bytecode an import only takes longer.
    """
    how = _LINKS if site.links else _COPIES
    answer = _run(site, _PUT, home, python, how)
    lacks = _LACKS.fullmatch(answer.last_line)
    if not lacks:
        return
    version = lacks[1]
    name = f"bytecode-{version}-{_folder(site, python)}"
    with site.store.locked(name, site.shell):
        # Another job may have made it meanwhile.
        if _LACKS.fullmatch(_run(site, _PUT, home, python, how).last_line):
            _make(site, site.store.environment(name), version, python)
            _run(site, _PUT, home, python, how)


def _make(site: Site, home: Path, version: str, python: CPython) -> None:
    """Compile what `import torch` imports, in an environment that has torch `version` and what it requires alone."""
    try:
        if site.install(home, f"torch=={version}").ok:
            # torch itself is foreign code as well, and what it requires.
            with site.foreign(home) as foreign:
                # Isolated (-I), Python also writes bytecode where PYTHONDONTWRITEBYTECODE is set.
                done = foreign.run(home / "bin" / "python", "-I", "-c", "import torch")
            if done.ok:
                _run(site, _KEEP, home, python, variables.site_packages(site.written(home), python))
    finally:
        site.remove(home)


def _folder(site: Site, python: CPython) -> str:
    """The folder of a CPython's bytecode; the same release for another machine is another torch."""
    return f"{python.tag}{site.platform.suffix}"


def _run(site: Site, script: str, home: Path, python: CPython, *more: PurePath) -> Completed:
    packages = variables.site_packages(home, python)
    return site.shell.run("sh", "-c", script, "sh", site.store.bytecode / _folder(site, python), packages, *more)
