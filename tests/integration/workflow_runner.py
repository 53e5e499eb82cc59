"""Runs a workflow of GitHub Actions on this machine: its jobs in order of their needs, each in a workspace of its own.

Every `run:` step runs in the shell that the workflow names. Keys, contexts and actions that the farm's workflows do not
use are errors, so that nothing is passed over.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.integration.expressions import Lenient, Unknown, condition, fill, text
from tests.integration.workflow_actions import ActionFailed, act
from torch_build_farm.core.seals import STATE_VARIABLE

_WORKFLOW = {"name", True, "permissions", "defaults", "env", "concurrency", "jobs"}  # YAML 1.1 reads `on` as true
_JOB = {"name", "needs", "if", "runs-on", "timeout-minutes", "permissions", "strategy", "environment", "outputs", "env",
        "steps"}  # fmt: skip
_STEP = {"id", "name", "if", "uses", "with", "run", "env"}
_STRATEGY = {"fail-fast", "max-parallel", "matrix"}


@dataclass(frozen=True)
class Event:
    """What starts a run."""

    name: str
    ref: str = "main"
    inputs: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Done:
    """How a job, or one instance of a matrix, ended."""

    name: str
    result: str
    outputs: dict[str, str] = field(default_factory=dict)
    log: str = ""
    summary: str = ""


def _known(keys: Mapping[Any, Any], allowed: set[Any], where: str) -> None:
    if unknown := set(keys) - allowed:
        raise Unknown(f"{', '.join(map(str, unknown))} in {where}")


@dataclass
class Workplace:
    """A fresh machine for a job: a workspace, a folder for temporary files, and what the steps so far have set."""

    run: Run
    folder: Path
    machine: dict[str, str]
    path: list[str]
    added: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for folder in (self.workspace, self.temp):
            folder.mkdir(parents=True)

    @property
    def workspace(self) -> Path:
        return self.folder / "workspace"

    @property
    def temp(self) -> Path:
        return self.folder / "temp"


def _assignments(path: Path) -> dict[str, str]:
    """What a step wrote to GITHUB_OUTPUT or GITHUB_ENV."""
    found = {}
    for line in path.read_text().splitlines():
        name, sign, value = line.partition("=")
        if not sign or "<<" in name:
            raise Unknown(f"{line!r} in {path.name}")
        found[name] = value
    return found


@dataclass
class Run:
    """A run of a workflow.

    `tools` are environments of Python that runs may share, as runners of one's own do. `identity` are the variables that
    tell a job where it proves that it runs in its environment; only jobs that may have an identity get them.
    """

    workflow: Path
    repository: Path
    folder: Path
    machine: dict[str, str]
    event: Event
    tools: Path
    secrets: Mapping[str, str] = field(default_factory=dict)
    identity: Callable[[str], dict[str, str]] = lambda _: {}
    done: dict[str, list[Done]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.document: dict[Any, Any] = yaml.safe_load(self.workflow.read_text())
        _known(self.document, _WORKFLOW, self.workflow.name)
        if self.event.name not in (self.document[True] or {}):
            raise Unknown(f"{self.workflow.name} does not answer to {self.event.name}")
        self.artifacts.mkdir(parents=True)

    @property
    def artifacts(self) -> Path:
        return self.folder / "artifacts"

    def job(self, name: str) -> Done:
        """The one job of that name, of a matrix or not."""
        (found,) = [one for several in self.done.values() for one in several if one.name == name]
        return found

    def story(self) -> str:
        """The ends of the logs of jobs that did not succeed."""
        return "\n".join(
            one.log[-2000:] for several in self.done.values() for one in several if one.result == "failure"
        )

    def results(self) -> dict[str, str]:
        """How each job ended."""
        return {one.name: one.result for several in self.done.values() for one in several}

    def __call__(self) -> dict[str, str]:
        """Run every job that has not succeeded yet, as "re-run failed jobs" does it, and those that need one of them."""
        self._contexts = self._event_contexts()
        if "concurrency" in self.document:
            fill(self.document["concurrency"], self._contexts)
        jobs: dict[str, Any] = self.document["jobs"]
        ended: set[str] = set()
        while ready := [name for name in jobs if name not in ended and self._needs(name) <= ended]:
            name = ready[-1]  # the last one first, so that a need which is not said is missed
            before = self.done.get(name, [])
            if not before or self._result(name) != "success":
                self.done[name] = self._job(name, jobs[name], before)
            ended.add(name)
        if ended != set(jobs):
            raise Unknown(f"jobs that wait for each other: {set(jobs) - ended}")
        return self.results()

    def _needs(self, name: str) -> set[str]:
        needs = self.document["jobs"][name].get("needs", [])
        return {needs} if isinstance(needs, str) else set(needs)

    def _ancestors(self, name: str) -> set[str]:
        return self._needs(name).union(*map(self._ancestors, self._needs(name)))

    def _result(self, name: str) -> str:
        results = {one.result for one in self.done[name]}
        return next(one for one in ("failure", "cancelled", "skipped", "success") if one in results or not results)

    def _outputs(self, name: str) -> Lenient:
        """A job's outputs; those of a matrix together: what the last instance that sets one says, counts."""
        outputs = Lenient()
        for one in self.done[name]:
            outputs.update({output: value for output, value in one.outputs.items() if value})
        return outputs

    def _event_contexts(self) -> dict[str, Any]:
        event = self.event
        declared = (self.document[True].get("workflow_dispatch") or {}).get("inputs", {})
        _known(event.inputs, set(declared), "the inputs")
        started = event.name == "workflow_dispatch"
        inputs = {name: event.inputs.get(name, one["default"]) if started else None for name, one in declared.items()}
        for name, one in declared.items():
            if one["type"] == "choice" and started and inputs[name] not in one["options"]:
                raise Unknown(f"{inputs[name]} is no choice for {name}: {one['options']}")
        return {
            "github": {
                "workflow": self.document["name"], "ref": f"refs/heads/{event.ref}", "ref_name": event.ref,
                "event_name": event.name, "token": "token-of-the-run",
                "event": {"repository": {"default_branch": "main"}},
            },
            "inputs": inputs,
            "secrets": Lenient(self.secrets),
        }  # fmt: skip

    def _job(self, name: str, job: dict[str, Any], before: list[Done]) -> list[Done]:
        _known(job, _JOB, f"job {name}")
        needs = {one: {"result": self._result(one), "outputs": self._outputs(one)} for one in self._needs(name)}
        contexts = {**self._contexts, "needs": needs}
        functions = {
            "success": lambda: all(one["result"] == "success" for one in needs.values()),
            "failure": lambda: any(self._result(one) == "failure" for one in self._ancestors(name)),
            "cancelled": lambda: False,
        }
        if not condition(job.get("if"), contexts, functions):
            return [Done(name, "skipped")]
        strategy = fill(job.get("strategy", {}), contexts)
        _known(strategy, _STRATEGY, f"the strategy of {name}")
        matrix = strategy.get("matrix", {"include": [{}]})
        _known(matrix, {"include"}, f"the matrix of {name}")
        ended: list[Done] = []
        for entry in matrix["include"]:
            here = {**contexts, "matrix": entry, "runner": {"temp": ""}}
            title = text(job.get("name", name), here)
            if kept := [one for one in before if one.name == title and one.result == "success"]:
                ended += kept
            elif strategy.get("fail-fast", True) and any(one.result == "failure" for one in ended):
                ended.append(Done(title, "cancelled"))
            else:
                ended.append(self._instance(title, job, here))
        return ended

    def _place(self, title: str, job: Mapping[str, Any], contexts: Mapping[str, Any]) -> Workplace:
        number = len(list(self.folder.glob("job-*")))
        place = Workplace(self, self.folder / f"job-{number}", {}, self.machine["PATH"].split(":"))
        known = job["permissions"].get("id-token") == "write"
        place.machine = {
            **self.machine,
            **(self.identity(text(job["environment"], contexts)) if known else {}),
            "CI": "true",
            "GITHUB_ACTIONS": "true",
            "GITHUB_WORKSPACE": str(place.workspace),
            "GITHUB_REPOSITORY": "someone/tiny",
            "RUNNER_TEMP": str(place.temp),
            STATE_VARIABLE: str(place.folder / "state"),  # another machine, another key
        }
        return place

    def _instance(self, title: str, job: Mapping[str, Any], contexts: dict[str, Any]) -> Done:
        place = self._place(title, job, contexts)
        steps: dict[str, Any] = Lenient()
        here = {**contexts, "steps": steps, "runner": {"temp": str(place.temp)}}
        env = {**self.document.get("env", {}), **job.get("env", {})}
        done = Done(title, "success")
        functions = {"success": lambda: done.result == "success", "failure": lambda: done.result == "failure",
                     "always": lambda: True}  # fmt: skip
        for number, step in enumerate(job["steps"]):
            _known(step, _STEP, f"a step of {title}")
            outputs = Lenient()
            steps[step.get("id", f"#{number}")] = {"outputs": outputs}
            if not condition(step.get("if"), here, functions):
                continue
            variables = {name: text(value, here) for name, value in {**env, **step.get("env", {})}.items()}
            try:
                if "uses" in step:
                    act(step["uses"], {key: text(one, here) for key, one in step.get("with", {}).items()}, place)
                    done.log += f"\n== {step['uses']}\n"
                else:
                    self._shell(step, variables, place, done, outputs)
            except (ActionFailed, subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
                done.log += f"\n{error}\n"
                done.result = "failure"
        done.outputs = {name: text(value, here) for name, value in job.get("outputs", {}).items()}
        shutil.rmtree(place.folder)  # the machine is gone; its artifacts stay
        place.folder.mkdir()
        return done

    def _shell(
        self, step: Mapping[str, Any], variables: dict[str, str], place: Workplace, done: Done, outputs: dict[str, Any]
    ) -> None:
        if re.search(r"\$\{\{", step["run"]):
            raise Unknown("an expression in a script")
        defaults = self.document["defaults"]["run"]
        _known(defaults, {"shell", "working-directory"}, "the defaults")
        files = {name: place.temp / name for name in ("GITHUB_OUTPUT", "GITHUB_ENV", "GITHUB_STEP_SUMMARY")}
        for file in files.values():
            file.write_text("")
        script = place.temp / "step.sh"
        script.write_text(step["run"])
        env = {**place.machine, **place.added, **variables, **{name: str(file) for name, file in files.items()}}
        ended = subprocess.run(
            [word.replace("{0}", str(script)) for word in shlex.split(defaults["shell"])],
            cwd=place.workspace / defaults.get("working-directory", "."),
            env={**env, "PATH": ":".join(place.path)},
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=1200,
            check=False,
        )  # fmt: skip
        done.log += f"\n== {step.get('name', step['run'])}\n{ended.stdout}"
        outputs.update(_assignments(files["GITHUB_OUTPUT"]))
        place.added.update(_assignments(files["GITHUB_ENV"]))
        done.summary += files["GITHUB_STEP_SUMMARY"].read_text()
        ended.check_returncode()
