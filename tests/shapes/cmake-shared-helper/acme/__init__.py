from . import one, two  # noqa: F401
