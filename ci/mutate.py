#!/usr/bin/env python3
"""Take out the protections of the guarding modules, one at a time, and see whether a test notices.

    python ci/mutate.py                                # all guarding modules; 80 minutes on two CPUs
    python ci/mutate.py torch_build_farm/core/paths.py # one of them

Each mutant is the checkout with one protection gone: a condition that leads to an error is never true, a check is not
called, an operand of a condition is missing, an option that restricts a tool is not given. The tests that reach the
line run against it, and one of them has to fail. Mutants that survive are printed, and are to be killed by a test or
explained in tests/mutants.toml. Exit code 1: one survives that is not explained.

Kept tools change operators and numbers (mutmut 3) or negate conditions (cosmic-ray 8): thousands of mutants, and none
of them a statement that is gone, which is how protections are lost. Which tests reach a line is coverage.py's to say.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from queue import Queue

ROOT = Path(__file__).resolve().parent.parent
EXPLAINED = ROOT / "tests" / "mutants.toml"
# The tests that are asked: those of the rooms, and those of integration that need no torch and no engine.
TESTS = ("tests/core", "tests/project", "tests/wheels", "tests/releases", "tests/audit", "tests/engines",
         "tests/pipeline", "tests/publish", "tests/cli", "tests/integration/test_publish.py")  # fmt: skip
BATCH = 25  # tests of other rooms that run at a time against a mutant, once those of its own module and room pass
LONGEST_NAME = 500  # characters of a test's name on a command line
TIMEOUT_S = 300  # a mutant that hangs is noticed
# Statements that only inform people protect nothing.
INFORMS = re.compile(
    r"(say|print|write|debug|info|add_row|sleep|append|extend|add|update|pop|setdefault|sort|unlink|mkdir|rmtree|utime)$"
)
# Neither do these options.
INFORM = {
    *("frozen", "kw_only", "parents", "exist_ok", "ignore_errors", "missing_ok", "prefix", "suffix", "next_step"),
    *("where", "name", "reverse", "indent", "default", "maxsplit", "use_attribute_docstrings"),
}
RESTRICTS = re.compile(r"--?(?!quiet$)[a-z]")  # an option of a tool


@dataclass(frozen=True)
class Mutant:
    """The text `old` at offset `start` of a file becomes `new`. `of_module`: it runs while the module is imported."""

    path: str
    line: int
    start: int
    old: str
    new: str
    kind: str
    of_module: bool = False

    @property
    def text(self) -> str:
        """How a mutant is named in tests/mutants.toml: by what it takes out, since lines move."""
        return " ".join(self.old.split())


# ---- what can be taken out


def _offset(lines: Sequence[bytes], line: int, column: int) -> int:
    return sum(len(text) for text in lines[: line - 1]) + column


class _Protections(ast.NodeVisitor):
    """Collects the mutants of one Python file. Offsets are in bytes, as ast counts columns."""

    def __init__(self, path: str, source: bytes) -> None:
        self.path = path
        self.source = source
        self.lines = source.splitlines(keepends=True)
        self.mutants: list[Mutant] = []
        self.functions = 0  # that the node is in

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self.functions += 1
        self.generic_visit(node)
        self.functions -= 1

    def _add(self, node: ast.expr | ast.stmt | ast.keyword, new: str, kind: str) -> None:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        start = _offset(self.lines, node.lineno, node.col_offset)
        end = _offset(self.lines, node.end_lineno, node.end_col_offset)
        if kind in ("option", "element"):  # with its comma
            rest = re.match(rb"\s*,", self.source[end:])
            end += rest.end() if rest else 0
        old = self.source[start:end].decode()
        self.mutants.append(Mutant(self.path, node.lineno, start, old, new, kind, self.functions == 0))

    def visit_If(self, node: ast.If) -> None:
        last = node.body[-1]
        refuses = isinstance(last, ast.Raise) or any(isinstance(inner, ast.Raise) for inner in node.body)
        notes_problem = isinstance(last, ast.Expr) and "problems" in ast.unparse(last)
        if refuses or notes_problem:
            self._add(node.test, "False", "condition")
            self._operands(node.test)
        self.generic_visit(node)

    def _operands(self, test: ast.expr) -> None:
        if isinstance(test, ast.BoolOp):
            neutral = "True" if isinstance(test.op, ast.And) else "False"
            for operand in test.values:
                if not isinstance(operand, ast.Compare | ast.Call | ast.UnaryOp | ast.BoolOp):
                    continue  # a default value, as a rule
                self._add(operand, neutral, "operand")

    def visit_Return(self, node: ast.Return) -> None:
        if node.value:
            self._operands(node.value)
        self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> None:
        self._add(node, "pass", "raise")

    def visit_Expr(self, node: ast.Expr) -> None:
        if isinstance(node.value, ast.Call):
            function = ast.unparse(node.value.func)
            if not INFORMS.search(function):
                self._add(node, "pass", "call")
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        for keyword in node.keywords:
            if keyword.arg and keyword.arg not in INFORM and isinstance(keyword.value, ast.Constant):
                self._add(keyword, "", "option")
        self.generic_visit(node)

    def _visit_elements(self, elements: Sequence[ast.expr]) -> None:
        for element in elements:
            text = element.value if isinstance(element, ast.Constant) else None
            if isinstance(text, str) and RESTRICTS.match(text):
                self._add(element, "", "element")

    def visit_List(self, node: ast.List) -> None:
        self._visit_elements(node.elts)
        self.generic_visit(node)

    def visit_Tuple(self, node: ast.Tuple) -> None:
        self._visit_elements(node.elts)
        self.generic_visit(node)


def mutants_of(path: Path, root: Path) -> list[Mutant]:
    """Every protection that a file has. A template of Python is read line by line, since it is no Python yet."""
    name = path.relative_to(root).as_posix()
    source = path.read_bytes()
    if path.suffix == ".py":
        protections = _Protections(name, source)
        protections.visit(ast.parse(source))
        # A condition that never holds, and the only error it raises, are one protection.
        conditions = {mutant.line for mutant in protections.mutants if mutant.kind == "condition"}
        return [m for m in protections.mutants if not (m.kind == "raise" and m.line - 1 in conditions)]
    return list(_of_template(name, source))


def _of_template(name: str, source: bytes) -> Iterator[Mutant]:
    start = 0
    for number, line in enumerate(source.splitlines(keepends=True), 1):
        text = line.decode()
        condition = re.match(r"\s*(?:el)?if (.*):\s*$", text)
        if condition:
            yield Mutant(
                name, number, start + len(text[: condition.start(1)].encode()), condition[1], "False", "condition"
            )
        elif text.strip().startswith("raise "):
            indent = len(text) - len(text.lstrip())
            yield Mutant(name, number, start + indent, text.strip(), "pass", "raise")
        start += len(line)


# ---- which tests reach a line


def _copy_of_checkout(folder: Path) -> Path:
    """The files that git knows, as they are now."""
    names = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        check=True, capture_output=True,
    ).stdout.decode().split("\0")  # fmt: skip
    for name in filter(None, names):
        source = ROOT / name
        if source.is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, folder / name)
    subprocess.run(["git", "init", "-q", str(folder)], check=True)
    return folder


def _pytest(folder: Path, *words: str, timeout: float | None = None) -> int:
    """Run pytest in a copy of the checkout; its exit code, 1 for a run that hangs."""
    env = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-n", "0", "--dist", "no", "-p", "no:cacheprovider", *words]
    if os.geteuid() == 0:
        # A farm without a protection may do to this machine what the protection is against: without its own name space
        # for mounts, the isolation of engines/isolation.py replaces the machine's root.
        command = ["unshare", "--mount", "--propagation", "private", *command]
    process = subprocess.Popen(
        command, cwd=folder, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        return process.wait(timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        process.wait()
        return 1


def _tests_by_line(folder: Path, modules: Sequence[str]) -> dict[str, dict[int, list[str]]]:
    """The tests that reach each line of the modules."""
    from coverage import CoverageData  # noqa: PLC0415 (installed for this script alone)

    existing = [test for test in TESTS if (folder / test).exists()]
    data = folder / "coverage.data"
    settings = folder / "coverage.toml"
    settings.write_text(
        f"[tool.coverage.run]\ndata_file = {str(data)!r}\ninclude = {[str(folder / name) for name in modules]!r}\n"
    )
    code = _pytest(folder, *existing, "--maxfail=1000", "--cov", f"--cov-config={settings}", "--cov-context=test",
                   "--cov-report=")  # fmt: skip
    if code not in (0, 1):
        sys.exit(f"pytest ends with {code}")
    coverage = CoverageData(str(data))
    coverage.read()
    tests: dict[str, dict[int, list[str]]] = {}
    for name in modules:
        by_line = coverage.contexts_by_lineno(str(folder / name))
        tests[name] = {line: sorted({_test_of(c) for c in contexts if c}) for line, contexts in by_line.items()}
    return tests


def _test_of(context: str) -> str:
    """The test that a context of coverage.py names; all of its examples where one's name is too long for a command."""
    test = context.partition("|")[0]
    return test if len(test) < LONGEST_NAME else test.partition("[")[0]


def _batches(mutant: Mutant, tests: dict[str, dict[int, list[str]]], *, explained: bool) -> list[list[str]]:
    """The tests to run against a mutant: those that reach its line, else those that reach its module.

    The nearest tests first: a batch runs if those before it pass. A mutant that may survive meets the first one alone.
    """
    if mutant.path.endswith(".j2"):
        return [["tests/wheels/test_dispatcher.py"]]
    by_line = tests.get(mutant.path, {})
    lines = range(mutant.line, mutant.line + mutant.old.count("\n") + 1)
    if not any(line in by_line for line in lines):
        return []
    reached = sorted({test for line in lines for test in by_line.get(line, [])})
    # What runs while a module is imported belongs to no test, or to the one that happens to import it first.
    if mutant.of_module or not reached:
        reached = sorted({test for names in by_line.values() for test in names})
    module = PurePosixPath(mutant.path)
    room, own_file = module.parts[1], _own_file(module, by_line)
    own: list[str] = []
    of_room: list[str] = []
    others: list[str] = []
    for test in reached:
        file = _file_of(test)
        if file.stem == own_file:
            own.append(test)
        elif room in file.parts and "integration" not in file.parts:
            of_room.append(test)
        else:
            others.append(test)
    others.sort(key=lambda test: ("integration" in test, test))  # those of integration take the longest
    near = own + of_room
    far = [others[first : first + BATCH] for first in range(0, len(others), BATCH)]
    # The module's own test file as a whole: coverage.py does not see what a test's farm does in a process of its own.
    whole_file = sorted({_file_of(test).as_posix() for test in own})
    batches = [batch for batch in (near, *far, whole_file) if batch]
    return batches[:1] if explained else batches


def _own_file(module: PurePosixPath, by_line: dict[int, list[str]]) -> str:
    """The stem of the test file that is the module's own: by its name, else the one that reaches it most often."""
    reaching = Counter(_file_of(test).stem for tests in by_line.values() for test in tests)
    by_name = f"test_{module.stem}"
    if by_name in reaching or not reaching:
        return by_name
    return reaching.most_common(1)[0][0]


def _file_of(test: str) -> PurePosixPath:
    return PurePosixPath(test.partition("::")[0])


# ---- the run


def _survives(mutant: Mutant, batches: Sequence[Sequence[str]], folder: Path) -> bool:
    path = folder / mutant.path
    source = path.read_bytes()
    end = mutant.start + len(mutant.old.encode())
    path.write_bytes(source[: mutant.start] + mutant.new.encode() + source[end:])
    try:
        return all(_pytest(folder, *batch, timeout=TIMEOUT_S) == 0 for batch in batches)
    finally:
        path.write_bytes(source)


def _explanations(modules: Sequence[str], mutants: Sequence[Mutant]) -> dict[tuple[str, str], str]:
    """Why a mutant of these modules may survive, by its module and by what it takes out. Exits for one that is none."""
    if not EXPLAINED.is_file():
        return {}
    existing = {(mutant.path, mutant.text) for mutant in mutants}
    explanations = {}
    for table in tomllib.loads(EXPLAINED.read_text("utf-8")).get("mutant", []):
        key = (table["module"], table["without"])
        if key[0] in modules and key not in existing:
            sys.exit(f"tests/mutants.toml explains what {key[0]} does not have: {key[1]}")
        explanations[key] = table["why"]
    return explanations


def _guarding_modules() -> list[str]:
    return list(tomllib.loads(EXPLAINED.read_text("utf-8"))["modules"]) if EXPLAINED.is_file() else []


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", help="by default those that tests/mutants.toml lists")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--list", action="store_true", help="print the mutants and run nothing")
    options = parser.parse_args()
    modules = options.modules or _guarding_modules()

    mutants: list[Mutant] = []
    for name in modules:
        mutants += mutants_of(ROOT / name, ROOT)
    if options.list:
        for mutant in mutants:
            print(f"{mutant.path}:{mutant.line}: {mutant.kind}: {mutant.text}")
        return 0

    explanations = _explanations(modules, mutants)
    with tempfile.TemporaryDirectory(prefix="mutants-") as scratch:
        folders: Queue[Path] = Queue()
        for number in range(options.jobs):
            folders.put(_copy_of_checkout(Path(scratch) / str(number)))
        first = folders.queue[0]
        of_python = [name for name in modules if name.endswith(".py")]
        tests = _tests_by_line(first, of_python) if of_python else {}

        def survives(mutant: Mutant) -> bool:
            batches = _batches(mutant, tests, explained=(mutant.path, mutant.text) in explanations)
            folder = folders.get()
            try:
                return _survives(mutant, batches, folder)
            finally:
                folders.put(folder)

        survivors = []
        counts: dict[str, list[int]] = {name: [0, 0, 0] for name in modules}
        with ThreadPoolExecutor(options.jobs) as pool:
            for mutant, survived in zip(mutants, pool.map(survives, mutants), strict=True):
                counts[mutant.path][0] += 1
                if not survived:
                    continue
                why = explanations.get((mutant.path, mutant.text))
                counts[mutant.path][1 if why else 2] += 1
                if not why:
                    survivors.append(mutant)
                    reached = "survives" if _batches(mutant, tests, explained=False) else "no test reaches it"
                    print(f"{mutant.path}:{mutant.line}: {mutant.kind}: {reached}: {mutant.text}", flush=True)
    for name, (total, explained, open_) in counts.items():
        print(f"{name}: {total} mutants, {total - explained - open_} killed, {explained} explained, {open_} survive")
    print(json.dumps({"mutants": len(mutants), "survivors": len(survivors)}))
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
