"""The JSON Schemas of the documents that commands print for programs: `python -m torch_build_farm.cli.schemas OUT`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from torch_build_farm.cli.answer import ErrorAnswer
from torch_build_farm.cli.main import COMMANDS, load_command


def schemas() -> dict[str, dict[str, Any]]:
    """The schema of each command's document by the command's name, and that of `error`."""
    answers: dict[str, Any] = {"error": ErrorAnswer}
    for name in COMMANDS:
        answer = load_command(name).answer
        if answer is not None:
            answers[name] = answer
    documents = {}
    for name, answer in answers.items():
        schema = TypeAdapter[Any](answer).json_schema(mode="serialization")
        documents[name] = {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
    return documents


def write(out: Path) -> None:
    """Write OUT/NAME.schema.json for each."""
    out.mkdir(parents=True, exist_ok=True)
    for name, schema in schemas().items():
        (out / f"{name}.schema.json").write_text(json.dumps(schema, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
