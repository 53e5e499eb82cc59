"""The user's home folder, which not every user has: neither HOME nor an entry in the password file may be there."""

from __future__ import annotations

from pathlib import Path


def home() -> Path | None:
    """The user's home folder; None for a user without one, as containers have them."""
    try:
        folder = Path.home()
    except RuntimeError:
        return None
    return folder if folder.is_absolute() else None
