"""URLs as people and logs may see them."""

from __future__ import annotations

import re
from urllib.parse import urlsplit


def public(url: str) -> str:
    """`url` without the name and password that it may hold: other people read messages and records too."""
    # From the right: a password may hold an @ of its own.
    user = urlsplit(url).netloc.rpartition("@")[0]
    return url.replace(f"{user}@", "") if user else url


def without_passwords(text: str) -> str:
    """A text, such as an error's, with the name and password taken out of each URL in it."""
    return re.sub(r"(?<=://)[^/\s]*@", "", text)


def without_index_name(text: str) -> str:
    """The URL of a package index that uv is configured for: uv takes both URL and NAME=URL."""
    return re.sub(r"^[\w.-]+=", "", text)
