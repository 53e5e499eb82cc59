"""The JSON Schemas of the documents that commands print for programs, and of the list of published files.

`python -m torch_build_farm.cli.schemas docs/schemas` writes them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter

from torch_build_farm.cli.answer import ErrorAnswer
from torch_build_farm.cli.main import COMMANDS, load_command
from torch_build_farm.publish.published_list import PublishedDocument


def schemas() -> dict[str, dict[str, Any]]:
    """The schema of each command's document by the command's name, and that of `error`."""
    answers: dict[str, Any] = {"error": ErrorAnswer}
    for name in COMMANDS:
        answer = load_command(name).answer
        if answer is not None:
            answers[name] = answer
    documents = {}
    for name, answer in answers.items():
        documents[name] = _schema(answer, "serialization")
    return documents


def published_schema() -> dict[str, Any]:
    """The schema of published.json."""
    return _schema(PublishedDocument, "validation")


def _schema(document: Any, mode: Literal["validation", "serialization"]) -> dict[str, Any]:
    schema = TypeAdapter[Any](document).json_schema(mode=mode)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def write(out: Path) -> None:
    """Write OUT/answers/NAME.schema.json for each command, and OUT/published.schema.json."""
    answers = out / "answers"
    answers.mkdir(parents=True, exist_ok=True)
    for name, schema in schemas().items():
        (answers / f"{name}.schema.json").write_text(json.dumps(schema, indent=2) + "\n", "utf-8")
    (out / "published.schema.json").write_text(json.dumps(published_schema(), indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
