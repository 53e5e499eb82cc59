"""The generated reference is current, and the schemas accept what the farm accepts."""

import json
import tomllib
from collections import Counter
from typing import Any

import pytest

from tests.conftest import CHECKOUT, PROJECTS
from torch_build_farm.core.errors import OutOfMemoryError
from torch_build_farm.project import reference

SCHEMAS = CHECKOUT / "docs" / "schemas"


def validator(name: str) -> Any:
    from jsonschema import Draft202012Validator  # noqa: PLC0415 (only the schemas' tests need it)

    schema = json.loads((SCHEMAS / name).read_text())
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def test_generated_files_are_current() -> None:
    outdated = [str(path.relative_to(CHECKOUT)) for path in reference.outdated()]
    assert not outdated, f"renew them with: {reference.COMMAND}"


def test_an_exit_code_belongs_to_one_error() -> None:
    codes = Counter(error.exit_code for error in reference.error_classes())
    assert {code: count for code, count in codes.items() if count > 1} == {}


def test_an_error_names_its_section() -> None:
    assert str(OutOfMemoryError("killed")).splitlines() == [
        "killed",
        "  docs:  docs/reference/errors.md#out-of-memory",
    ]
    assert "\n## Out of memory\n" in (CHECKOUT / "docs" / "reference" / "errors.md").read_text()


def test_the_schemas_accept_real_files() -> None:
    settings, variant = validator("torch-build-farm.schema.json"), validator("variant.schema.json")
    for path in [CHECKOUT / "pyproject.toml", *sorted(PROJECTS.glob("*/pyproject.toml"))]:
        settings.validate(tomllib.loads(path.read_text())["tool"]["torch-build-farm"])
    for path in sorted((CHECKOUT / "variants").glob("*.toml")):
        variant.validate(tomllib.loads(path.read_text()))


@pytest.mark.parametrize("name", ["torch-build-farm.schema.json", "variant.schema.json"])
def test_a_default_is_a_value_that_the_key_takes(name: str) -> None:
    schema = validator(name)
    tables = {"": schema.schema, **schema.schema.get("$defs", {})}
    for table, node in tables.items():
        for key, of_key in node["properties"].items():
            if "default" in of_key:
                problems = list(schema.evolve(schema=of_key).iter_errors(of_key["default"]))
                assert not problems, (table, key, problems)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("sorce", "."),
        ("torch", [2.8]),
        ("torch", ["2.8.1"]),
        ("size-limit-mb", 0),
        ("torch-flavours", "gpu"),
        ("smoke_script", "smoke.py"),
        ("ci", {"enigne": "local"}),
        ("system-packages", {"apt": "xz"}),
    ],
)
def test_the_schema_refuses_what_the_farm_refuses(key: str, value: Any) -> None:
    table = {"name": "demo", "packages": ["demo"]}
    schema = validator("torch-build-farm.schema.json")
    assert schema.is_valid(table)
    assert not schema.is_valid({**table, key: value})
