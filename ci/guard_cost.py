#!/usr/bin/env python3
"""What dispatcher and guard cost: the import of a package through them against the import of the same files without.

    ci/guard_cost.py PYTHON PACKAGE      an environment's interpreter, and a package of the farm's in it

Each number is the median of 30 fresh processes, in milliseconds. With torch loaded before, it is the whole import of
the package; without, the time until the package itself begins to import torch. Exit code 1 where the difference is 1 ms
or more.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys

RUNS = 30
LIMIT_MS = 1.0
START = """
import importlib.util, os, sys, time
{before}
start = time.perf_counter_ns()
def done(event="import", args=("torch",)):
    if event == "import" and args[0] == "torch":
        print(time.perf_counter_ns() - start, flush=True)
        os._exit(0)
"""
THROUGH = START + "import {package}\ndone()"
WITHOUT = (
    START
    + """
place = {folder!r} + "/__init__.py"
spec = importlib.util.spec_from_file_location({package!r}, place, submodule_search_locations=[{folder!r}])
sys.modules[{package!r}] = module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
done()
"""
)
LOADED = "import torch"
NOT_LOADED = "sys.addaudithook(lambda *event: done(*event))"


def asked(python: str, code: str) -> str:
    """What a fresh interpreter prints last."""
    done = subprocess.run([python, "-I", "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.split()[-1]


def compared(python: str, package: str, before: str) -> dict[str, float]:
    """Medians in ms, the two ways in turn, so that what else the machine does hits both."""
    folder = asked(python, f"import torch, {package}; print({package}.__path__[0])")
    codes = [text.format(before=before, package=package, folder=folder) for text in (THROUGH, WITHOUT)]
    pairs = [[int(asked(python, code)) / 1e6 for code in codes] for _ in range(RUNS)]
    through, without = (statistics.median(column) for column in zip(*pairs, strict=True))
    difference = statistics.median(one - other for one, other in pairs)
    return {"through_ms": round(through, 3), "without_ms": round(without, 3), "difference_ms": round(difference, 3)}


def main() -> int:
    """Measure with torch loaded before, and without."""
    python, package = sys.argv[1:]
    count = asked(python, "from importlib.metadata import distributions; print(len(list(distributions())))")
    found = {
        "distributions": int(count),
        "runs": RUNS,
        "torch loaded": compared(python, package, LOADED),
        "torch not loaded": compared(python, package, NOT_LOADED),
    }
    print(json.dumps(found, indent=2))
    return int(any(one["difference_ms"] >= LIMIT_MS for one in found.values() if isinstance(one, dict)))


if __name__ == "__main__":
    sys.exit(main())
