from acme.two import _two  # noqa: F401
