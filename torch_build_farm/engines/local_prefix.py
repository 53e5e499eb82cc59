"""What `prepare` installs on this machine: into a folder of the store, once for all jobs and runs."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from torch_build_farm.core import tools
from torch_build_farm.core.files import remove_tree
from torch_build_farm.core.process import Shell
from torch_build_farm.core.store import TorchStore
from torch_build_farm.engines.diagnosis import diagnose
from torch_build_farm.engines.prefixes import SCRIPT, Preparation


@dataclass(frozen=True)
class LocalPrefix:
    """A folder of the store, and the preparation that fills it."""

    folder: Path
    preparation: Preparation

    @property
    def _done(self) -> Path:
        """A file that is there once the folder is complete. Its path is in what was installed, so it is not renamed."""
        return self.folder.with_name(f"{self.folder.name}.done")

    def make(self, store: TorchStore, shell: Shell) -> None:
        """Run the commands, unless they ran before. Raises BuildError or one of its kinds where one of them fails."""
        if self._done.is_file():
            return
        with store.locked(f"prefix-{self.folder.name}", shell):
            # Another farm may have made it meanwhile.
            if not self._done.is_file():
                self._run(store, shell)
                self._done.touch()

    def _run(self, store: TorchStore, shell: Shell) -> None:
        shell.say(f"prepare: into {self.folder}")
        remove_tree(self.folder)  # a farm that was killed may have left a part
        with tempfile.TemporaryDirectory(prefix="prepare-", dir=store.root) as scratch:
            for name, content in {**self.preparation.files, SCRIPT: self.preparation.script.encode()}.items():
                path = Path(scratch, "files", name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
                path.chmod(0o755)
            Path(scratch, "tmp").mkdir()
            variables = {**tools.foreign_environment(Path(scratch)), "PREFIX": str(self.folder)}
            done = replace(shell, env=variables).run("/bin/sh", Path(scratch, "files", SCRIPT))
        if not done.ok:
            raise diagnose("prepare", shell.log)
