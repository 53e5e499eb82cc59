"""The core: it owns the package, and needs no torch."""

from acme._core import Body

__all__ = ["Body"]
