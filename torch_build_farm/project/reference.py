"""The reference of settings, variants and errors, generated from where they are declared.

`python -m torch_build_farm.project.reference` writes tables into docs/reference/{settings,variants,errors}.md, between
the markers there, and the JSON Schemas that editors complete and check TOML files with. With --check it writes nothing
and names the files that are not current.

The texts are the docstrings of fields (settings.py, variant.py) and of classes (core/errors.py).
"""

from __future__ import annotations

import argparse
import inspect
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch_build_farm import __version__
from torch_build_farm.core import errors
from torch_build_farm.core.errors import FarmError
from torch_build_farm.core.files import replace_text
from torch_build_farm.project.core_table import Core
from torch_build_farm.project.overrides import Override
from torch_build_farm.project.settings import TABLE, Ci, Settings, SystemPackages
from torch_build_farm.project.tables import adapter
from torch_build_farm.project.variant import Variant, deprecated_keys

COMMAND = "python -m torch_build_farm.project.reference"
DOCS = Path(__file__).resolve().parents[2] / "docs"
_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_ACRONYMS = {"Abi": "ABI", "Cuda toolkit": "CUDA toolkit", "Sdk": "SDK"}


# ---- JSON Schema


def schema(shape: type, title: str) -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of the TOML table that is read into `shape`."""
    # In this mode defaults are as a key's type writes them, not as Python has them.
    document = _for_toml(adapter(shape).json_schema(mode="serialization"))
    if shape is Variant:
        document["properties"].update(deprecated_keys())
    return {"$schema": _DIALECT, **document, "title": title}


def _for_toml(node: Any) -> Any:
    """What pydantic generates, without what means nothing to a person who edits TOML."""
    if isinstance(node, list):
        return [_for_toml(item) for item in node]
    if not isinstance(node, dict):
        return node
    # TOML has no null: a key that may be null is one that may be left out.
    null = {"type": "null"}
    alternatives = node.get("anyOf", [])
    if null in alternatives:
        types = [alternative for alternative in alternatives if alternative != null]
        others = {key: value for key, value in node.items() if key not in ("anyOf", "default")}
        node = {**(types[0] if len(types) == 1 else {"anyOf": types}), **others}
    result: dict[str, Any] = {}
    for key, value in node.items():
        if key == "properties":  # names of keys, which may be called "title" or "default"
            result[key] = {name: _for_toml(value[name]) for name in value}
        elif key == "title" or (key == "default" and __version__ in json.dumps(value)):
            continue  # pydantic makes titles from names; a version would change the schema with each release
        elif key == "description":
            result[key] = " ".join(value.split())
        else:
            result[key] = _for_toml(value)
    return result


# ---- Markdown


def _type_text(node: Mapping[str, Any]) -> str:
    """A key's type in words, such as "list of strings"."""
    if "enum" in node:
        values = [f'`"{value}"`' for value in node["enum"]]
        return " or ".join(values)
    if "$ref" in node:
        return "table"
    if "anyOf" in node:
        return " or ".join(_type_text(alternative) for alternative in node["anyOf"])
    if node["type"] == "array":
        return "array of tables" if "$ref" in node["items"] else f"list of {node['items']['type']}s"
    if node["type"] == "object":
        return "table of strings" if "type" in node["additionalProperties"] else "table of strings or lists of strings"
    return str(node["type"])


def _default_text(name: str, node: Mapping[str, Any], required: list[str]) -> str:
    """A key's default as Markdown; "required" or "not set" where it has none."""
    if name in required:
        return "required"
    default = node.get("default")
    if "$ref" in node or default in (None, "", []):
        return "not set"
    return f"`{json.dumps(default)}`"


def table(shape: type) -> str:
    """The keys of a TOML table as a table of Markdown."""
    document = schema(shape, "")
    lines = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for name, node in document["properties"].items():
        cells = [f"`{name}`", _type_text(node), _default_text(name, node, document.get("required", []))]
        meaning = node["description"]
        if node.get("deprecated"):
            meaning = f"Deprecated. {meaning}"
        # In a table of Markdown a bar ends the cell, also within code.
        cells.append(meaning.replace("|", r"\|"))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def error_classes() -> list[type[FarmError]]:
    """Every error with an exit code of its own, in order of the codes."""
    classes = []
    for value in vars(errors).values():
        # The base class is never raised by itself, and an interrupt has two codes.
        if isinstance(value, type) and issubclass(value, FarmError) and value not in (FarmError, errors.Interrupted):
            classes.append(value)
    return sorted(classes, key=lambda error: error.exit_code)


def error_table() -> str:
    """Exit codes with their meaning, then a section an error: the place that its message refers to."""
    # The table is in order of the codes, two of which belong to no error; the sections are in the errors' order.
    rows = {0: ("", "Everything asked for is done.")}
    rows[errors.NEWS_EXIT_CODE] = ("", "`discover`: a minor is missing, changed or yanked.")
    sections = []
    classes: list[type[FarmError]] = [*error_classes(), errors.Interrupted]
    for error in classes:
        meaning, next_step = _paragraphs(error)
        code = "130, 143" if error is errors.Interrupted else str(error.exit_code)
        if error is not errors.Interrupted:
            rows[error.exit_code] = (f"[{error.__name__}](#{error.anchor()})", meaning)
        title = error.anchor().replace("-", " ").capitalize()
        sections.append(
            f"## {_ACRONYMS.get(title, title)}\n\n`{error.__name__}`, exit code {code}. {meaning}\n\n{next_step}"
        )
    lines = ["| code | error | meaning |", "|---|---|---|"]
    for number, (name, meaning) in sorted(rows.items()):
        lines.append(f"| {number} | {name} | {meaning} |")
    # Last, since 130 and 143 are the shell's (128 and the signal's number) and not the farm's.
    meaning, _ = _paragraphs(errors.Interrupted)
    lines.append(f"| 130, 143 | [Interrupted](#{errors.Interrupted.anchor()}) | {meaning} |")
    several = "Where several jobs fail, the first one's code counts; the summary and `--json` have them all."
    return "\n\n".join(["\n".join(lines), several, *sections])


def _paragraphs(error: type[FarmError]) -> tuple[str, str]:
    """What an error means, and what to do. Raises ValueError for a docstring of other than two paragraphs."""
    meaning, next_step = (inspect.getdoc(error) or "").split("\n\n")
    return " ".join(meaning.split()), " ".join(next_step.split())


# ---- files


def _with_generated(text: str, name: str, generated: str, page: Path) -> str:
    """A page's text with `generated` between its markers for `name`."""
    start, end = f"<!-- generated: {name}; renew with {COMMAND} -->", f"<!-- end of generated: {name} -->"
    if start not in text or end not in text:
        raise ValueError(f"{page} lacks the markers {start} and {end}")
    before, _, rest = text.partition(start)
    return f"{before}{start}\n\n{generated}\n\n{end}{rest.partition(end)[2]}"


def generated_files(docs: Path = DOCS) -> dict[Path, str]:
    """Every generated file, by path, as it should be."""
    tables = {
        "settings.md": {
            "settings": table(Settings),
            "system-packages": table(SystemPackages),
            "overrides": table(Override),
            "core": table(Core),
            "ci": table(Ci),
        },
        "variants.md": {"variants": table(Variant)},
        "errors.md": {"errors": error_table()},
    }
    result = {}
    for name, parts in tables.items():
        page = docs / "reference" / name
        text = page.read_text("utf-8")
        for part, generated in parts.items():
            text = _with_generated(text, part, generated, page)
        result[page] = text
    schemas = {
        "torch-build-farm.schema.json": schema(Settings, f"[tool.{TABLE}]"),
        "variant.schema.json": schema(Variant, "variants/torchNN.toml"),
    }
    for name, document in schemas.items():
        result[docs / "schemas" / name] = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    return result


def outdated(docs: Path = DOCS) -> list[Path]:
    """The generated files that are not current."""
    paths = []
    for path, text in generated_files(docs).items():
        if not path.is_file() or path.read_text("utf-8") != text:
            paths.append(path)
    return paths


def main() -> int:
    """Write or check the generated files; returns the exit code, 1 for --check with a file that is not current."""
    parser = argparse.ArgumentParser(prog=COMMAND, description="Write the generated parts of docs.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 where a file is not current")
    options = parser.parse_args()
    paths = outdated()
    if options.check:
        for path in paths:
            sys.stderr.write(f"{path} is not current; renew it with: {COMMAND}\n")
        return 1 if paths else 0
    for path, text in generated_files().items():
        if path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_text(path, text)
            sys.stdout.write(f"wrote {path}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
