"""What people read: nothing of a stranger's moves the cursor or is a command, and nothing prints past the console."""

from __future__ import annotations

import ast
import contextlib
import io
import json
import re
import socket
import threading
import zipfile
from pathlib import Path

import pytest
from rich.table import Table
from rich.text import Text

from tests import elves
from tests.conftest import CHECKOUT, Farm
from torch_build_farm.cli.answer import as_text
from torch_build_farm.cli.console import Output, People, Stream
from torch_build_farm.cli.main import main
from torch_build_farm.core.errors import BuildError, FarmError
from torch_build_farm.core.process import Runner
from torch_build_farm.core.text import printable

EVIL = "a\x1b[2J\x1b]0;t\x07\x9b1m\r\u202eb[red]c[/red]:bomb:"
SHOWN = r"a\x1b[2J\x1b]0;t\x07\x9b1m\r\u202eb[red]c[/red]:bomb:"


def people() -> tuple[People, io.StringIO]:
    stream = io.StringIO()
    return People(stream, width=200), stream


def test_every_way_to_the_console_shows_escapes() -> None:
    console, stream = people()
    console.say(EVIL)
    console.print(EVIL)
    console.print(Text(EVIL, "bold"))
    table = Table(EVIL, title=EVIL, box=None)
    table.add_row(EVIL)
    table.add_row(Text(f"{EVIL}{' ' * 20}"))  # rich measures a Text before it is escaped
    console.print(table)
    console.say(str(FarmError(EVIL, where=EVIL, next_step=EVIL)))
    text = stream.getvalue()
    assert re.fullmatch(r"[\n\x20-\x7e]+", text), ascii(text)
    assert text.count(SHOWN) >= 8, text


def test_colours_and_the_live_table_are_the_farms_own() -> None:
    stream = io.StringIO()
    People(stream, force_terminal=True).say("a\x1b[2J", "red")
    assert "\x1b[31m" in stream.getvalue()
    assert "\x1b[2J" not in stream.getvalue()


def test_a_line_in_ci_is_no_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("CI", "true")
    output = Output(Runner(), json=False)
    output.people.say("::error file=x::y\nfine\n  ::add-mask::e\nx ##[group]z")
    table = Table(box=None, pad_edge=False)
    table.add_row("::stop-commands::t")
    output.people.print(table)
    output.errors.say(f"error: {BuildError('a' + chr(10) + '::set-output name=a::b')}")
    captured = capsys.readouterr()
    for line in (captured.out + captured.err).splitlines():
        assert not line.lstrip().startswith("::"), line
        assert "##[" not in line
    assert r"\x3a:error file=x::y" in captured.out


def test_a_document_is_exact_and_no_command() -> None:
    document = {"name": EVIL, "line": "##[group]x\n::error::y"}
    assert json.loads(as_text(document)) == document
    assert "##[" not in as_text(document)
    assert as_text(document).isascii()


def test_what_an_encoding_lacks_is_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(raw, encoding="ascii"))
    Stream("stdout", lambda failure: pytest.fail(str(failure))).write("größer\n")
    assert raw.getvalue() == b"gr\\xf6\\xdfer\n"


# signals.py gives the terminal its settings back; the others run as programs of their own, whose output the farm reads.
PRINTERS = {"cli/console.py", "cli/signals.py", "project/reference.py", "core/supervise.py", "audit/demangler.py"}


def uses(path: Path) -> list[str]:
    """How a module would print past the console."""
    found = []
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("print", "Console"):
            found.append(node.func.id)
        if isinstance(node, ast.Attribute) and re.fullmatch("sys.(__)?std(out|err)(__)?", ast.unparse(node)):
            found.append(ast.unparse(node))
        if isinstance(node, ast.ImportFrom | ast.Import):
            names = [f"{getattr(node, 'module', '')}.{name.name}" for name in node.names]
            found += [name for name in names if re.search(r"^rich\.print|rich\.markup|^\.?logging$", name)]
    return found


def test_nothing_prints_past_the_console() -> None:
    package = CHECKOUT / "torch_build_farm"
    seen = {}
    for path in package.rglob("*.py"):
        name = path.relative_to(package).as_posix()
        if name not in PRINTERS and not name.startswith("data/"):  # data: what runs in builds
            seen[name] = uses(path)
    assert {name: found for name, found in seen.items() if found} == {}
    assert uses(package / "cli/console.py")  # the test sees what it looks for
    assert "print" not in uses(package / "cli/console.py")


def test_a_wheels_names_in_the_audits_table(tiny: Farm, tmp_path: Path) -> None:
    path = tmp_path / "x\x1b[2J-1.0-py3-none-any.whl"
    path.write_bytes(b"no wheel")
    answer = tiny("audit", str(path))
    assert answer.code == 26, answer.err
    assert "\x1b" not in answer.err + answer.out
    assert printable(path.name) in answer.out


@pytest.mark.parametrize("words", [["plan", "--torch", "2.8", "--\x1b[2Jx"], ["\x1b[2Jplan"], ["sdk", "\x1b[2J"]])
def test_words_of_the_command_line(tiny: Farm, words: list[str]) -> None:
    answer = tiny(*words)
    assert answer.code == 2, answer.err
    assert "\x1b" not in answer.err
    assert r"\x1b[2J" in answer.err


def test_a_wrong_option_has_its_document(tiny: Farm) -> None:
    answer = tiny("plan", "--forse", "--json")
    assert answer.code == 2
    assert answer.document["error"]["kind"] == "UsageError"
    assert "did you mean" in answer.document["error"]["what"]


ESCAPE = r"\u001b]0;evil\u0007\u202e"  # as TOML and JSON write it
WAYS_IN = {
    "a name": ("pyproject.toml", 'name = "tiny"\npackages', f'name = "ti{ESCAPE}"\npackages'),
    "a key": ("pyproject.toml", "[tool.torch-build-farm]", f'[tool.torch-build-farm]\n"{ESCAPE}" = 1'),
    "a value": ("pyproject.toml", "[tool.torch-build-farm]", f'[tool.torch-build-farm]\nsource = "{ESCAPE}"'),
    "a version": ("pyproject.toml", 'version = "1.0"', f'version = "1.0{ESCAPE}"'),
    "a requirement": ("pyproject.toml", '"torch>=2.8"', f'"torch>=2.8 {ESCAPE}"'),
    "a git repository": (
        "pyproject.toml",
        "[tool.torch-build-farm]",
        f'[tool.torch-build-farm]\nrevision = "x"\ngit = "/{ESCAPE}"',
    ),
    "an sdist": ("pyproject.toml", "[tool.torch-build-farm]", f'[tool.torch-build-farm]\nsdist = "{ESCAPE}==1.0"'),
    "a variant": ("variants/torch28.toml", "releases =", f'"{ESCAPE}" = 1\nreleases ='),
}


@pytest.mark.parametrize("way", WAYS_IN)
def test_every_way_in_of_a_project(tiny: Farm, way: str, capsys: pytest.CaptureFixture[str]) -> None:
    name, old, new = WAYS_IN[way]
    (tiny.project / "variants").mkdir()
    for path in (CHECKOUT / "variants").glob("torch28.toml"):
        (tiny.project / "variants" / path.name).write_text(path.read_text())
    text = (tiny.project / name).read_text()
    assert old in text
    (tiny.project / name).write_text(text.replace(old, new, 1))
    code = main(["render", "--torch", "2.8", "--engine", "local"], tiny.project)
    told = capsys.readouterr()
    assert code != 0
    shown = told.out + told.err
    assert "evil" in shown
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", shown), ascii(shown)


def test_an_index_that_answers_with_escapes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection:
                        connection.recv(65536)
                        connection.sendall(b"HTTP/1.1 418 \x1b]0;evil\x07 ::error::x\r\nContent-Length: 0\r\n\r\n")

        threading.Thread(target=answer, daemon=True).start()
        monkeypatch.setenv("UV_DEFAULT_INDEX", f"http://127.0.0.1:{listener.getsockname()[1]}/simple")
        monkeypatch.setenv("TORCH_BUILD_FARM_STORE", str(tmp_path / "store"))
        assert main(["discover"], CHECKOUT) == 10
        listener.shutdown(socket.SHUT_RDWR)
    told = capsys.readouterr()
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", told.out + told.err), ascii(told.err)


def test_members_of_a_wheel(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in (f"demo/{EVIL}.so", "demo/_core.so"):
        path = tmp_path / "demo-1.0-cp312-cp312-linux_x86_64.whl"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(
                name, elves.library([f"_ZN3c10{EVIL.encode('ascii', 'ignore').decode()}"], [], ["libc10.so"])
            )
            archive.writestr("demo-1.0.dist-info/METADATA", f"Name: demo\nVersion: 1.0\nRequires-Dist: torch {EVIL}\n")
        main(["audit", str(path), "--torch", "2.9.1"], CHECKOUT)
        main(["audit", str(path), "--torch", "2.9.1", "--markdown"], CHECKOUT)
        told = capsys.readouterr()
        assert told.out + told.err
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", told.out + told.err), ascii(told.out)
