"""What the docs promise is there."""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.conftest import CHECKOUT, PROJECTS, need


def test_the_reference_of_commands_is_what_the_parser_says() -> None:
    command = [sys.executable, str(CHECKOUT / "ci" / "docs_commands.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_page_that_code_names_is_there() -> None:
    """Messages lead people to pages, and to their anchors."""
    named = set()
    for path in [*CHECKOUT.glob("torch_build_farm/**/*.py"), *CHECKOUT.glob("templates/*"), *CHECKOUT.glob("*.toml")]:
        named |= {
            (path.name, page) for page in re.findall(r"\bdocs/[\w./-]+\.(?:md|json)(?:#[\w-]+)?", path.read_text())
        }
    assert named
    for where, page in sorted(named):
        name, _, anchor = page.partition("#")
        assert (CHECKOUT / name).is_file(), f"{where} names {page}"
        if anchor:
            headings = re.findall(r"^#+ (.+?)(?: \{ ?#([\w-]+) ?\})?$", (CHECKOUT / name).read_text(), re.MULTILINE)
            slugs = {own or re.sub(r"[^\w-]+", "-", title.lower()).strip("-") for title, own in headings}
            assert anchor in slugs, f"{where} names {page}"


def test_the_page_that_follows_a_pin_names_code_that_is_there() -> None:
    """Its tables name a file of the package and what in it does the step."""
    text = (CHECKOUT / "docs" / "explanation" / "follow-a-pin.md").read_text()
    named = re.findall(r"`(\w+/[\w/]+\.py)`(?:, ((?:`[\w.]+`(?: and )?)+))?", text)
    assert len(named) > 20
    for file, names in named:
        code = (CHECKOUT / "torch_build_farm" / file).read_text()
        for name in re.findall(r"`([\w.]+)`", names):
            assert re.search(rf"^ *(?:def|class) {name.split('.')[-1]}\b", code, re.MULTILINE), f"{file} has no {name}"


def test_every_schema_of_an_answer_is_in_the_reference() -> None:
    listed = re.findall(
        r"\(\.\./schemas/answers/([\w.-]+)\)", (CHECKOUT / "docs" / "reference" / "json.md").read_text()
    )
    assert sorted(listed) == sorted(path.name for path in (CHECKOUT / "docs" / "schemas" / "answers").iterdir())


def test_ci_runs_the_readmes_test_command() -> None:
    readme, ci = (CHECKOUT / "README.md").read_text(), (CHECKOUT / ".ci" / "run").read_text()
    assert "pip install '.[test]' && pytest\n" in readme
    commands = [line for line in ci.splitlines() if re.match("(pip|pytest|ruff|mypy|lint-imports|ci/)", line)]
    assert re.match(r"pip install .*'\.\[test\]' && pytest\b", commands[0])


def test_the_installed_farm_brings_its_variants_and_templates() -> None:
    script = Path(sys.executable).parent / "torch-build-farm"
    need(script.is_file(), "needs the farm installed: pip install '.[test]'")
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    with tempfile.TemporaryDirectory() as work:
        command: list[str | Path] = [script, "render", "--project", PROJECTS / "tiny", "--work", work, "--torch", "all"]
        done = subprocess.run(command, capture_output=True, text=True, env=env, cwd="/", check=False)
        assert done.returncode == 0, done.stderr
        assert len(list(Path(work).glob("jobs/*/source/pyproject.toml"))) == 8
