"""One distribution per torch minor from one C++ source tree: planned, rendered, built, repaired, audited, smoke-tested.

Start-up is part of every command, so a module imports at its top only what a run with nothing to do needs anyway.
Imported inside the functions that use them, with `# noqa: PLC0415`:

- docker, and engines.docker with it: 0.1 s or more, and an engine on this machine needs neither
- requests, pypi_simple, twine: whatever speaks to the network
- build, pyproject_hooks, setuptools_scm: whatever builds
- elftools, psutil, tomlkit: whatever reads debug information, counts memory, edits TOML
- pydantic, jinja2, rich, where an audit alone comes by: it needs none of the first two

tests/cli/test_imports.py holds a local run with nothing to do and an audit to it; ci/benchmark.py measures both
start-up and such a run, as ratios.

The names in `__all__` are the Python API (docs/reference/api.md). They come from `api`, which is imported when one of
them is first needed.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch_build_farm.api import (
        FarmError,
        Job,
        JobResult,
        LibraryReport,
        Plan,
        Progress,
        RunResult,
        StageResult,
        Status,
        WheelReport,
        audit_wheel,
        plan,
        run,
    )

__version__ = "0.1.0"
__all__ = [
    "FarmError",
    "Job",
    "JobResult",
    "LibraryReport",
    "Plan",
    "Progress",
    "RunResult",
    "StageResult",
    "Status",
    "WheelReport",
    "__version__",
    "audit_wheel",
    "plan",
    "run",
]

if not TYPE_CHECKING:  # so that a type checker refuses names that are not above

    def __getattr__(name: str) -> Any:
        """Import a name of the API where it is first used (PEP 562)."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from torch_build_farm import api  # noqa: PLC0415 (slow to import)

        return getattr(api, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
