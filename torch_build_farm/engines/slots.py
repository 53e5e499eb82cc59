"""How many compilers a machine can run at once."""

from __future__ import annotations

import os
import re
from pathlib import Path

DEFAULT_GB = 2.0  # memory for one compiler where nothing was measured


def oom_kills() -> int:
    """How often the kernel has killed a process for want of memory since it started (Linux 4.13)."""
    match = re.search(r"^oom_kill (\d+)$", Path("/proc/vmstat").read_text(), re.MULTILINE)
    return int(match[1]) if match else 0


def compile_slots(memory_per_compile_gb: float) -> int:
    """How many compilers fit this machine at once, by the CPUs that this process may use and by free memory."""
    import psutil  # noqa: PLC0415

    # The CPUs that this process may use: a container or `taskset` may leave it fewer than the machine has.
    free_gb = psutil.virtual_memory().available / 1e9
    return max(1, min(len(os.sched_getaffinity(0)), int(free_gb / memory_per_compile_gb)))
