"""A fresh environment without torch, in which the core must install and import."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from packaging.utils import canonicalize_name

from torch_build_farm.core.errors import SmokeError
from torch_build_farm.engines.base import Site
from torch_build_farm.engines.diagnosis import install_error
from torch_build_farm.pipeline.facts import CoreSmokeFacts
from torch_build_farm.project.plan import Job
from torch_build_farm.wheels.wheel import read_wheel

_HAS_TORCH = "import importlib.util; print(importlib.util.find_spec('torch') is not None)"


@dataclass(frozen=True)
class CoreTest:
    """The smoke test of a core's `wheel` at `site`, in a fresh environment that is removed afterwards.

    `imports` are the modules that must import.
    """

    job: Job
    imports: tuple[str, ...]
    wheel: Path
    site: Site

    def run(self) -> CoreSmokeFacts:
        """Test the wheel. Raises SmokeError, or a more exact error where nothing could be installed."""
        self._check_metadata()
        home = self.site.store.environment(f"{self.job.id}-smoke")
        place = self.site.bring(self.wheel.parent) / self.wheel.name
        try:
            if not self.site.install(home, place).ok:
                raise install_error(self.job.id, self.site.shell.log)
            with self.site.foreign(home) as shell:
                python = home / "bin" / "python"
                answer = shell.run(python, "-I", "-c", _HAS_TORCH)
                if not answer.ok or answer.last_line not in ("True", "False"):
                    raise self._error(f"Python does not say whether torch is there: {answer.exception}")
                if answer.last_line == "True":
                    raise self._error("what it requires brings torch, and a core is for users without it, too")
                for name in self.imports:
                    self.site.shell.say(f"import {name}")
                    done = shell.run(python, "-I", "-X", "faulthandler", "-c", f"import {name}")
                    if not done.ok:
                        raise self._error(f"import {name} fails where no torch is: {done.exception}")
        finally:
            self.site.remove(home)
        return CoreSmokeFacts(self.imports)

    def _check_metadata(self) -> None:
        """Raise SmokeError where METADATA has another name or version than the variants require."""
        metadata = read_wheel(self.wheel).metadata
        stated = (canonicalize_name(metadata["Name"]), metadata["Version"])
        if stated != (canonicalize_name(self.job.distribution), self.job.version):
            raise self._error(
                f"METADATA is wrong: it says {stated[0]} {stated[1]}, not {self.job.distribution} {self.job.version}"
            )

    def _error(self, what: str) -> SmokeError:
        return SmokeError(f"{self.job.id}: {what}", where=str(self.site.shell.log))
