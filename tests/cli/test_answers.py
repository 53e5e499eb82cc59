"""The documents for programs: what commands print is what the published schemas say, and options are what is declared."""

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from pydantic import ConfigDict, TypeAdapter

from tests.conftest import CHECKOUT, Farm
from tests.pipeline.test_smoke import JOB
from torch_build_farm.audit.changes import Changes
from torch_build_farm.cli.answer import as_text
from torch_build_farm.cli.main import COMMANDS, command_parser, load_command
from torch_build_farm.cli.run_answer import RunAndPublishAnswer, RunAnswer
from torch_build_farm.cli.schemas import published_schema as published_schema_of_the_list
from torch_build_farm.cli.schemas import schemas
from torch_build_farm.core.errors import CompileError
from torch_build_farm.pipeline.facts import RepairFacts
from torch_build_farm.pipeline.records import Artifact, Record
from torch_build_farm.pipeline.results import JobResult, RunResult, StageResult
from torch_build_farm.publish.publication import Publication

FOLDER = CHECKOUT / "docs" / "schemas" / "answers"


def test_the_schemas_are_current() -> None:
    """`python -m torch_build_farm.cli.schemas docs/schemas` writes them."""
    published = {path.name.removesuffix(".schema.json"): json.loads(path.read_text()) for path in FOLDER.glob("*.json")}
    assert published == schemas()
    assert json.loads((FOLDER.parent / "published.schema.json").read_text()) == published_schema_of_the_list()


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ("plan", ["plan", "--torch", "2.8", "2.9", "--json"]),
        ("render", ["render", "--torch", "2.8", "--json"]),
        ("index", ["index", "list", "--json"]),
        ("ci", ["ci", "--json"]),
        ("error", ["plan", "--torch", "2.7", "--json"]),
        ("error", ["clean", "--json"]),
    ],
)
def test_a_document_has_its_schemas_keys(tiny: Farm, schema: str, words: list[str]) -> None:
    if words[0] == "clean":
        tiny.work.mkdir()  # a folder that is not a work folder
    document = tiny(*words).document
    published = published_schema(schema)
    validate(document, published)
    assert set(document) == set(published["properties"])


def published_schema(name: str) -> Any:
    return json.loads((FOLDER / f"{name}.schema.json").read_text())


def validate(document: Any, schema: Any) -> None:
    from jsonschema import Draft202012Validator  # noqa: PLC0415 (only the schemas' tests need it)

    assert [error.message for error in Draft202012Validator(schema).iter_errors(document)] == []


OTHER_JOB = replace(JOB, distribution="demo-torch28")
RUN = RunResult(
    (
        JobResult(
            JOB,
            (
                StageResult(Record("repair", JOB.id, "", (), 2.125, "", details=RepairFacts("any")), kept=True),
                StageResult(Record("relocate", JOB.id, "", (), 1.625, ""), kept=False),
            ),
            Artifact("dist/demo-1.0-cp311-cp311-manylinux2014_x86_64.manylinux_2_17_x86_64.whl", "ab", 1_500_000),
            None,
            "demo.log",
        ),
        JobResult(OTHER_JOB, (), None, CompileError("no", where="core.cpp", next_step="mend it"), "other.log"),
    ),
    seconds=6.4567,
    work=Path("/work"),
)


def test_the_document_of_a_run_keeps_its_keys() -> None:
    """Programs read it: a key that changes its name or meaning needs another `schema`."""
    document = json.loads(as_text(RunAnswer.of(RUN)))
    assert document == {
        "schema": 1,
        "seconds": 6.46,
        "jobs": [
            {
                "job": "demo-torch29-cp311",
                "status": "done",
                "seconds": 1.62,
                "log": "demo.log",
                "wheel": {
                    "path": "/work/dist/demo-1.0-cp311-cp311-manylinux2014_x86_64.manylinux_2_17_x86_64.whl",
                    "sha256": "ab",
                    "size": 1_500_000,
                    "tag": "manylinux_2_17_x86_64",
                },
                "stages": [
                    {
                        "stage": "repair",
                        "kept": True,
                        "seconds": 2.125,
                        "details": {"tag": "any", "cpu-level": "x86-64"},
                    },
                    {"stage": "relocate", "kept": False, "seconds": 1.625, "details": {}},
                ],
                "error": None,
            },
            {
                "job": "demo-torch28-cp311",
                "status": "failed",
                "seconds": 0,
                "log": "other.log",
                "wheel": None,
                "stages": [],
                "error": {
                    "kind": "CompileError",
                    "exit_code": 14,
                    "what": "no",
                    "where": "core.cpp",
                    "next": "mend it",
                },
            },
        ],
    }
    for command in ("run", "build", "smoke", "render"):
        validate(document, published_schema(command))


def test_the_document_of_run_publish_has_the_publication() -> None:
    run = RunAnswer.of(RUN)
    publication = Publication(target="pypi", version="1.0", dry_run=True, files=(), waves=(("demo",),), warnings=())
    answer = RunAndPublishAnswer(seconds=run.seconds, jobs=run.jobs, publish=publication)
    document = json.loads(as_text(answer))
    validate(document, published_schema("run"))
    assert list(document) == ["schema", "seconds", "jobs", "publish"]
    assert document["publish"] == {
        "target": "pypi",
        "version": "1.0",
        "dry_run": True,
        "files": [],
        "waves": [["demo"]],
        "warnings": [],
    }


def test_what_changed_in_torch_has_its_schema() -> None:
    """`from` is a keyword of Python and a key of the document."""
    changes = Changes("2.8.0", "2.9.0", {"libc10.so": ("_ZN3c101aEv",)}, {"c10::A": "grew"}, {})
    document = changes.document()
    assert document == {
        "from": "2.8.0",
        "to": "2.9.0",
        "gone": {"libc10.so": ["_ZN3c101aEv"]},
        "types": {"c10::A": "grew"},
        "harmless": {},
        "wheels": {},
    }
    add = published_schema("add")
    validate(document, {**add["$defs"]["ChangesDocument"], "$defs": add["$defs"]})


SAMPLES: dict[str, list[str]] = {
    "audit": ["a.whl", "b.whl", "--torch", "2.8"],
    "index": ["add", "2.16.0", "--out", "tables"],
    "sdk": ["2.9", "--out", "sdk", "--python", "3.12"],
    "publish": ["testpypi", "--only", "a", "b", "--build-number", "1"],
    "adopt": ["testpypi", "demo", "demo-torch28"],
    "check": ["testpypi", "1.0"],
    "ci": ["--out", "ci"],
    "init": [".", "folder"],
    "verify": ["a.whl"],
    "accept": ["a.tar", "b.tar", "--digests", "{}"],
    "run": ["--torch", "2.8", "2.9", "--jobs", "2", "--smoke", "import", "--work", "w"],
    "add": ["2.16", "--build", "--python", "all"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_options_have_the_types_that_are_declared(name: str) -> None:
    command = load_command(name)
    try:
        options = command.parse(command_parser(name), SAMPLES.get(name, []))
    except SystemExit:
        pytest.fail(f"{name} has required arguments: give it a row in SAMPLES")
    types: dict[str, Any] = get_type_hints(type(options))
    for field in fields(options):
        adapter = TypeAdapter(types[field.name], config=ConfigDict(strict=True))
        adapter.validate_python(getattr(options, field.name))
