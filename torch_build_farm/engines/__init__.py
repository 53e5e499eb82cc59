"""Where wheels are built and tested: on this machine (`local`) or in containers (`docker`)."""
