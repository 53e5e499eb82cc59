from . import _core, sub  # noqa: F401
