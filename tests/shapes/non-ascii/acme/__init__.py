from pathlib import Path

from . import _core  # noqa: F401

data = (Path(__file__).parent / "daten" / "größe λ.txt").read_text("utf-8")
