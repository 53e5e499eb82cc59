import acme_core  # noqa: F401
