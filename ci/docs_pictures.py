"""Draw the Mermaid blocks of the docs into docs/pictures/NAME.svg: python ci/docs_pictures.py MERMAID [--all].

MERMAID is mermaid.min.js out of the npm package of that name (`npm pack mermaid@11`, then package/dist/mermaid.min.js).
A headless chromium draws. Pictures whose block did not change are kept, unless --all is given.
"""

from __future__ import annotations

import html
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from docs_hooks import BLOCK, PICTURES, digest

# Labels are SVG text, not HTML, so that every viewer shows them; the font is the reader's own.
_PAGE = """<!doctype html><meta charset="utf-8"><script src="{mermaid}"></script><div id="out"></div><script>
mermaid.initialize({{startOnLoad: false, theme: "neutral", htmlLabels: false, flowchart: {{htmlLabels: false}},
                     fontFamily: "sans-serif", deterministicIds: true}});
mermaid.render("picture-{name}", {source}).then(r => document.getElementById("out").innerHTML = r.svg);
</script>"""


def draw(name: str, source: str, mermaid: Path) -> str:
    """The block as SVG. Raises RuntimeError if chromium draws nothing."""
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder, "page.html")
        page.write_text(_PAGE.format(mermaid=mermaid.resolve().as_uri(), name=name, source=json.dumps(source)), "utf-8")
        command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=20000",
                   f"--user-data-dir={folder}/profile", "--dump-dom", page.as_uri()]  # fmt: skip
        document = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    match = re.search(r'<div id="out">(<svg.*?</svg>)</div>', document, re.DOTALL)
    if not match:
        raise RuntimeError(f"chromium drew nothing for {name}: {html.unescape(document)[-500:]}")
    return match[1].replace("<br>", "<br/>")


def main() -> None:
    """Draw what changed."""
    mermaid = Path(sys.argv[1])
    pages = [*PICTURES.parent.rglob("*.md"), PICTURES.parent.parent / "README.md"]
    sources: dict[str, str] = {}
    for page in pages:
        for block in BLOCK.finditer(page.read_text("utf-8")):
            if sources.setdefault(block["name"], block["source"]) != block["source"]:
                raise SystemExit(f"{page}: picture {block['name']} has another source elsewhere")
    for name, source in sorted(sources.items()):
        path, comment = PICTURES / f"{name}.svg", f"<!-- {digest(source)} -->"
        if "--all" in sys.argv or not path.is_file() or not path.read_text("utf-8").startswith(comment):
            path.write_text(f"{comment}\n{draw(name, source, mermaid)}\n", "utf-8")
            print(f"drew {path.name}")


if __name__ == "__main__":
    main()
