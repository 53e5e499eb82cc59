import _acme  # noqa: F401
