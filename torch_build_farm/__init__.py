"""One distribution per torch minor from one C++ source tree: planned, rendered, built, repaired, smoke-tested."""

__version__ = "0.1.0"
