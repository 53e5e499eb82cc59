"""Tries every way out when it is imported."""

import torch  # noqa: F401 (as an extension would)

from escape import ways_out

ways_out.main("import")
