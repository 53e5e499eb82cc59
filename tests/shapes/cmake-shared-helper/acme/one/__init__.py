from . import _one  # noqa: F401
