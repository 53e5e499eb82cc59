"""The project's own part of a smoke test: its smoke script, and the commands that run its tests."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from packaging.utils import canonicalize_name

from torch_build_farm.core.errors import SmokeError, nearest
from torch_build_farm.core.process import Shell
from torch_build_farm.engines.base import Site
from torch_build_farm.project.plan import Job
from torch_build_farm.project.settings import Project
from torch_build_farm.wheels.wheel import Wheel

# Gets the source tree as $1; prints the folder in which its copy lies as "project", beside an empty folder "tests".
_COPY = 'here=$(mktemp -d) && cp -R "$1" "$here/project" && mkdir "$here/tests" && echo "$here"'
# Gets the folder to run in as $1, the environment as $2, and the command as $3.
_COMMAND = 'cd "$1" && export VIRTUAL_ENV="$2" PATH="$2/bin:$PATH" && exec /bin/sh -c "$3"'


@dataclass(frozen=True)
class ProjectTests:
    """The tests of a project for one job. `source` is its source tree, `tree` the rendered one of the job."""

    project: Project
    job: Job
    source: Path
    tree: Path
    site: Site

    @property
    def need_more(self) -> bool:
        """Whether they need more than the wheel and what it requires."""
        return bool(self.project.settings.test_requires or self.project.settings.test_extras)

    def required(self, wheel: Wheel, place: Path) -> list[str]:
        """What is installed for them: `wheel`, whose path at the site is `place`, with its extras, and `test-requires`.

        Raises SmokeError for an extra that the wheel does not have: installers only warn of those.
        """
        provided = {canonicalize_name(extra) for extra in wheel.metadata.get_all("Provides-Extra", [])}
        for extra in self.project.settings.test_extras:
            if canonicalize_name(extra) not in provided:
                hint = nearest(extra, sorted(provided)) if provided else "it has none"
                raise SmokeError(
                    f"{self.job.id}: the wheel has no extra {extra}; {hint}",
                    where="[tool.torch-build-farm] test-extras",
                    next_step="name an extra of the project's own metadata",
                )
        extras = ",".join(self.project.settings.test_extras)
        # PEP 508's form for a file; paths of wheels have no characters that a URL would need to quote.
        with_extras = f"{self.job.distribution}[{extras}] @ {place.as_uri()}" if extras else str(place)
        return [with_extras, *self.project.settings.test_requires]

    def script(self, shell: Shell, home: Path) -> str:
        """Run the smoke script in the environment `home`; returns its last line, "none" for a project without one.

        Raises SmokeError if it fails.
        """
        script = self.project.smoke_script
        if script is None:
            return "none"
        # Isolated (-I): no module comes from the current folder or PYTHONPATH.
        python = home / "bin" / "python"
        done = shell.run(python, "-I", "-X", "faulthandler", self._script_at_site(script.resolve()))
        if not done.ok:
            raise self._error(f"the smoke script {script.name} fails: {done.exception}")
        return done.tail[-1] if done.tail else "passed"

    def _script_at_site(self, script: Path) -> Path:
        """The script's path at the site; one of the source tree stays in it, so that it finds its neighbours."""
        if script.is_relative_to(self.source) and (self.tree / script.relative_to(self.source)).is_file():
            return self.site.bring(self.tree) / script.relative_to(self.source)
        return self.site.bring(script)

    def commands(self, shell: Shell, home: Path) -> Iterator[str]:
        """Run each test command with the environment `home`; yields its last line. Raises SmokeError if one fails.

        They get a copy of the source tree: test runners write into the one that they test.
        """
        if not self.project.settings.test_command:
            return
        copied = shell.run("sh", "-c", _COPY, "sh", self.site.bring(self.tree))
        if not copied.ok:
            raise self._error(f"the source tree cannot be copied for test-command: {copied.last_words}")
        folder = Path(copied.last_line)
        # cibuildwheel's names: the tree as a whole, and the folder of the Python project in it.
        project = folder / "project"
        places = {"{project}": project, "{package}": project / self.project.settings.subdirectory}
        for command in self.project.settings.test_command:
            shell.say(command)
            filled_in = command
            for placeholder, place in places.items():
                filled_in = filled_in.replace(placeholder, str(place))
            done = shell.run("sh", "-c", _COMMAND, "sh", folder / "tests", home, filled_in)
            if not done.ok:
                raise self._error(f"the test command {command!r} fails: {done.last_words}")
            yield done.last_line or "passed"

    def _error(self, what: str) -> SmokeError:
        log = str(self.site.shell.log)
        return SmokeError(f"{self.job.id}: {what}", where=log, next_step="the log has its whole output")
