from acme_backend import _C  # noqa: F401
