"""What `mkdocs build` does beyond Markdown: pictures go into the pages, and no page may load anything from elsewhere.

A picture is a Mermaid block, which code hosts draw themselves. For the site it is drawn once, into docs/pictures, and
put into the page as SVG: Mermaid in the reader's browser would be 3 MB of script from another host.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError

PICTURES = Path(__file__).resolve().parent.parent / "docs" / "pictures"
BLOCK = re.compile(r"^```mermaid\n%% picture: (?P<name>[a-z-]+)\n(?P<source>.*?)^```\n", re.MULTILINE | re.DOTALL)

# What makes a browser load a resource. A link that a reader may follow (<a href>) and metadata are something else.
_LOADS = re.compile(
    r"""<(?:script|img|iframe|source|video)\b[^>]*\bsrc=["']?(?:https?:)?//"""
    r"""|<link\b(?=[^>]*\brel=["']?(?:stylesheet|preload|preconnect|icon))[^>]*\bhref=["']?(?:https?:)?//"""
    r"""|@import\s+(?:url\()?["']?(?:https?:)?//|url\(["']?(?:https?:)?//"""
)


def digest(source: str) -> str:
    """SHA-256 of a picture's Mermaid source; the first line of its SVG repeats it."""
    return hashlib.sha256(source.encode()).hexdigest()


def _drawn(match: re.Match[str]) -> str:
    path = PICTURES / f"{match['name']}.svg"
    comment, _, svg = path.read_text("utf-8").partition("\n") if path.is_file() else ("", "", "")
    if comment != f"<!-- {digest(match['source'])} -->":
        raise PluginError(f"{path.name} is not of the page's Mermaid block: python ci/docs_pictures.py draws it anew")
    return f'<figure class="picture">{svg.strip()}</figure>\n'


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace each Mermaid block by its picture."""
    drawn = BLOCK.sub(_drawn, markdown)
    if "```mermaid" in drawn:
        raise PluginError("a Mermaid block begins with a line `%% picture: NAME`")
    return drawn


def on_post_build(config: Any, **_: Any) -> None:
    """Fail if a page or a style sheet loads something from another host."""
    for path in sorted(Path(config["site_dir"]).rglob("*")):
        if path.suffix not in (".html", ".css"):
            continue
        if match := _LOADS.search(path.read_text("utf-8")):
            raise PluginError(f"{path.name} loads something from another host: {match[0]}")
