"""The documents for programs: what commands print is what the published schemas say, and options are what is declared."""

import json
from dataclasses import fields
from typing import Any, get_type_hints

import pytest
from pydantic import ConfigDict, TypeAdapter

from tests.conftest import CHECKOUT, Farm
from torch_build_farm.cli.main import COMMANDS, command_parser, load_command
from torch_build_farm.cli.schemas import schemas

FOLDER = CHECKOUT / "docs" / "schemas" / "answers"


def test_the_schemas_are_current() -> None:
    """`python -m torch_build_farm.cli.schemas docs/schemas/answers` writes them."""
    published = {path.name.removesuffix(".schema.json"): json.loads(path.read_text()) for path in FOLDER.glob("*.json")}
    assert published == schemas()


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ("plan", ["plan", "--torch", "2.8", "2.9", "--json"]),
        ("index", ["index", "list", "--json"]),
        ("ci", ["ci", "--json"]),
        ("error", ["plan", "--torch", "2.7", "--json"]),
        ("error", ["clean", "--json"]),
    ],
)
def test_a_document_has_its_schemas_keys(tiny: Farm, schema: str, words: list[str]) -> None:
    from jsonschema import Draft202012Validator  # noqa: PLC0415 (only the schemas' tests need it)

    if words[0] == "clean":
        tiny.work.mkdir()  # a folder that is not a work folder
    document = tiny(*words).document
    published = json.loads((FOLDER / f"{schema}.schema.json").read_text())
    assert [error.message for error in Draft202012Validator(published).iter_errors(document)] == []
    assert set(document) == set(published["properties"])


SAMPLES: dict[str, list[str]] = {
    "audit": ["a.whl", "b.whl", "--torch", "2.8"],
    "index": ["add", "2.16.0", "--out", "tables"],
    "sdk": ["2.9", "--out", "sdk", "--python", "3.12"],
    "publish": ["testpypi", "--only", "a", "b", "--build-number", "1"],
    "ci": ["--out", "ci"],
    "init": [".", "folder"],
    "verify": ["a.whl"],
    "run": ["--torch", "2.8", "2.9", "--jobs", "2", "--smoke", "import", "--work", "w"],
    "add": ["2.16", "--build", "--python", "all"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_options_have_the_types_that_are_declared(name: str) -> None:
    command = load_command(name)
    options = command.parse(command_parser(name), SAMPLES.get(name, []))
    types: dict[str, Any] = get_type_hints(type(options))
    for field in fields(options):
        adapter = TypeAdapter(types[field.name], config=ConfigDict(strict=True))
        adapter.validate_python(getattr(options, field.name))
