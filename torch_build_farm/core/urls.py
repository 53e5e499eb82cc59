"""URLs as people and logs may see them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    pass


def public(url: str) -> str:
    """A URL without the name and password that it may hold: messages and records are for others too."""
    user = urlsplit(url).netloc.rpartition("@")[0]
    return url.replace(f"{user}@", "") if user else url


def _url(text: str) -> str:
    return re.sub(r"^[\w.-]+=", "", text)  # uv takes name=URL too
