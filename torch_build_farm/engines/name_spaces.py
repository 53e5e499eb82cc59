"""Name spaces in which foreign code of a local build starts, where the system gives them.

Without a network, a build cannot download what it then passes off as compiled. With its folders mounted where those of
all other builds are, its compilers get the same paths as theirs: a source without torch is then the same to ccache in
every build.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch_build_farm.core.process import capture
from torch_build_farm.core.resources import DATA

_START = (sys.executable, "-I", "-S", str(DATA / "name_spaces.py"))


@dataclass(frozen=True)
class NameSpaces:
    """What commands get: no network, and folders that they see in another place too (`mounts`, by folder)."""

    no_network: bool = False
    mounts: Mapping[Path, Path] = field(default_factory=dict)

    def path(self, path: Path) -> Path:
        """Where the commands see what lies at `path`."""
        for folder, mounted_at in self.mounts.items():
            if path.is_relative_to(folder):
                return mounted_at / path.relative_to(folder)
        return path

    def text(self, text: str) -> str:
        """A text with paths, as the commands see them."""
        for folder, mounted_at in self.mounts.items():
            text = text.replace(f"{folder}/", f"{mounted_at}/")
        return text

    def command(self, words: Sequence[str], folder: Path) -> list[str]:
        """The words that start a command in these name spaces; it starts in `folder`."""
        if not self.no_network and not self.mounts:
            return [*words]
        options = ["--no-network"] if self.no_network else []
        for mounted, mounted_at in self.mounts.items():
            options += ["--mount", str(mounted), str(mounted_at)]
        return [*_START, *options, "--chdir", str(self.path(folder)), "--", *words]

    def why_not(self) -> str:
        """Why this machine cannot start a command so; empty where it can."""
        done = capture(self.command(["true"], Path("/")))
        return "" if done.ok else done.last_line or f"exit code {done.returncode}"
