"""The examples of CONTRIBUTING.md work as they are printed: done in a copy of the checkout, they pass what CI checks."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import CHECKOUT

PAGE = CHECKOUT / "CONTRIBUTING.md"


def example(first_words: str) -> str:
    """The block of the page that begins with these words."""
    blocks = re.findall(r"^```(?:python|cmake|md)\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    (block,) = [block for block in blocks if block.lstrip("\n").startswith(first_words)]
    return str(block)


def insert(path: Path, before: str, text: str, after: str = "") -> None:
    """Put text before a line of a file, which has that line once behind `after`."""
    head, start, content = path.read_text().partition(after) if after else ("", "", path.read_text())
    assert text not in content, f"{path.name} has the example of CONTRIBUTING.md, which is there to be read"
    assert content.count(before) == 1, f"{path.name} has {before!r} {content.count(before)} times"
    path.write_text(head + start + content.replace(before, text + before))


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the checkout in which somebody has followed the page."""
    checkout = tmp_path / "checkout"
    left_out = shutil.ignore_patterns(
        ".git", ".venv", ".nox", ".*_cache", "__pycache__", "site", "work", "node_modules"
    )
    shutil.copytree(CHECKOUT, checkout, ignore=left_out)
    package, tests = checkout / "torch_build_farm", checkout / "tests"

    def append(path: Path, text: str) -> None:
        path.write_text(f"{path.read_text()}{text}")

    append(tests / "pipeline" / "test_repair.py", f"\n\n{example('def test_bytecode')}")
    insert(package / "wheels" / "checks.py", "def problems(", f"{example('def _bytecode')}\n\n")
    (call,) = re.findall(r"which `problems` calls with `(.+)`:", PAGE.read_text())
    insert(package / "wheels" / "checks.py", "    return reasons\n", f"    {call}\n", after="def problems(")

    (package / "cli" / "where.py").write_text(example('"""`where`'))
    insert(package / "cli" / "main.py", '    "clean": Entry(', example('    "where"'))
    append(checkout / "docs" / "reference" / "json.md", f"\n{example('| `where`')}")
    (tests / "cli" / "test_where.py").write_text(example("from tests.conftest"))
    (row,) = re.findall(r"here `(\(\"where\".+,)`\.$", PAGE.read_text(), re.MULTILINE)
    insert(
        tests / "cli" / "test_answers.py",
        '        ("plan", ["plan", "--torch", "2.8", "2.9", "--json"]),\n',
        f"        {row}\n",
    )

    append(tests / "pipeline" / "test_render.py", f"\n\n{example('def test_a_build_has_its_compile_commands')}")
    append(checkout / "templates" / "prelude.cmake.j2", example("# compile_commands.json"))
    return checkout


def test_the_examples_pass_what_ci_checks(copy: Path) -> None:
    def run(*command: str) -> subprocess.CompletedProcess[str]:
        environment = {
            **os.environ,
            "PYTHONPATH": str(copy),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }
        return subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, check=False)

    tests = [
        "tests/pipeline/test_repair.py::test_bytecode",
        "tests/pipeline/test_render.py::test_a_build_has_its_compile_commands",
        "tests/cli/test_where.py::test_where",
        "tests/cli/test_answers.py::test_a_document_has_its_schemas_keys[where-words0]",
        "tests/cli/test_docs.py::test_every_schema_of_an_answer_is_in_the_reference",
    ]
    for command in (
        ("ci/generate",),
        ("ruff", "check", "--no-cache", "."),
        ("ruff", "format", "--no-cache", "--check", "."),
        (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests),
    ):
        done = run(*command)
        assert done.returncode == 0, f"{done.args}\n{done.stdout[-4000:]}\n{done.stderr[-2000:]}"
    assert "| `--store` | print the store instead" in (copy / "docs" / "reference" / "commands.md").read_text()
    assert (copy / "docs" / "schemas" / "answers" / "where.schema.json").is_file()
