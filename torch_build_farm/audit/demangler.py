"""Demangles C++ names, one a line, and ends itself where a name takes too much time or memory.

Started by `demangle` as `python -I -S demangler.py`, so it uses the standard library alone. It answers each line with
one. A name that is not mangled, or becomes very long, is answered with itself.
"""

import contextlib
import ctypes
import resource
import signal
import sys

SECONDS = 0.25  # of CPU time, for all names; one takes some 10 microseconds
MEMORY = 512 << 20  # bytes of address space; the interpreter takes 30 MB
LONGEST = 20_000  # characters of an answer


def main() -> int:
    """Answer until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the farm's to handle
    try:
        library = ctypes.CDLL("libstdc++.so.6")
    except OSError:
        library = None
    signal.setitimer(signal.ITIMER_PROF, SECONDS)  # SIGPROF ends the process, in C code too
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for line in sys.stdin:
        name = line.rstrip("\n")
        sys.stdout.write(f"{_demangled(library, name) if library else name}\n")
        sys.stdout.flush()
    return 0


def _demangled(library: ctypes.CDLL, name: str) -> str:
    status = ctypes.c_int()
    demangle = library.__cxa_demangle  # Itanium C++ ABI, 3.4
    demangle.restype = ctypes.c_void_p
    address = demangle(name.encode(), None, None, ctypes.byref(status))
    if not address:
        return name
    text = ctypes.string_at(address).decode("ascii", "backslashreplace")
    library.free.argtypes = [ctypes.c_void_p]
    library.free(address)
    return text if len(text) <= LONGEST and "\n" not in text else name


if __name__ == "__main__":
    sys.exit(main())
