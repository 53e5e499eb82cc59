"""What a Python file says in plain values, read as a syntax tree and never run.

Own code: setuptools reads `attr:` in the same way first, and imports the module where that does not do.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from torch_build_farm.project import source_files

_Sized = TypeVar("_Sized", str, list[Any])
_LONGEST = 5_000  # characters, or items: sums and f-strings of names double with each line
_LARGEST = 128 << 10  # bytes; as a syntax tree that can take 30 MB, and half a second
_CONDITIONAL = (ast.If, ast.IfExp, ast.For, ast.While, ast.Try, ast.ListComp, ast.GeneratorExp)
_SCALARS = (str, int, float)
_INTEGERS = range(-(2**63), 2**63)  # Python refuses to print one of thousands of digits


def setup_arguments(root: Path) -> dict[str, Any]:
    """The keyword arguments that the tree's setup.py passes to setup(), as far as their values are plain.

    Plain are literals, names of plain values, f-strings and sums of them. Raises SourceError where the file cannot be
    read.
    """
    values = _parsed(root, "setup.py")[1]
    for node in calls(root, "setup.py"):
        if called(node) != "setup":
            continue
        arguments = {}
        for keyword in node.keywords:
            value = _value(keyword.value, values)
            if keyword.arg and value is not None:
                arguments[keyword.arg] = value
        return arguments
    return {}


def calls(root: Path, name: str) -> list[ast.Call]:
    """Every call in a Python file of the tree. Raises SourceError where the file cannot be read."""
    return [node for node in ast.walk(_parsed(root, name)[0]) if isinstance(node, ast.Call)]


def called(call: ast.Call) -> str:
    """The name of the function that is called, as in setup(...) and setuptools.setup(...); empty for any other."""
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def only_folder(call: ast.Call) -> list[str]:
    """The folder in which a call of find_packages() looks, if that is all that it is given; [] for any other call.

    setuptools' documentation, "Package Discovery": the folder is `where`, and all packages in it are taken.
    """
    match call:
        case ast.Call(args=[], keywords=[]):
            return ["."]
        case (
            ast.Call(args=[ast.Constant(str(folder))], keywords=[])
            | ast.Call(args=[], keywords=[ast.keyword("where", ast.Constant(str(folder)))])
        ):
            return [folder]
    return []


@dataclass(frozen=True)
class ExtensionNames:
    """The extensions that a setup.py makes, by their plain names.

    `any`: it makes some, with whatever names. `names` are dotted, as the modules are imported. `certain` are those made
    outside of conditions and loops; `without_sources` those with an empty list of sources: such an extension may stand
    for a module that CMake builds, or for none (with any, setuptools writes a wheel for this platform). `relative` are
    as written, where setup() has an `ext_package` that they belong to.
    """

    any: bool
    names: frozenset[str]
    certain: frozenset[str]
    without_sources: frozenset[str]
    relative: frozenset[str]


def extension_names(root: Path) -> ExtensionNames:
    """The extensions that the tree's setup.py makes: Extension("name", [...]) and its kin."""
    tree, values = _parsed(root, "setup.py")
    conditional = {_place(node) for node in _within(tree, _CONDITIONAL) if isinstance(node, ast.Call)}
    has_package, package = _extension_package(tree, values)
    names, certain, without_sources, relative = set(), set(), set(), set()
    made = [call for call in calls(root, "setup.py") if called(call).endswith("Extension")]
    for call in made:
        arguments = dict(zip(("name", "sources"), call.args, strict=False))
        arguments |= {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg}
        name = _value(arguments["name"], values) if "name" in arguments else None
        if not isinstance(name, str):
            continue
        if has_package:
            relative.add(name)
            if not package:
                continue  # the module's whole name is not known
            name = f"{package}.{name}"
        names.add(name)
        if _place(call) not in conditional:
            certain.add(name)
        sources = arguments.get("sources")
        if isinstance(sources, ast.List | ast.Tuple) and not sources.elts:
            without_sources.add(name)
    return ExtensionNames(bool(made), *map(frozenset, (names, certain, without_sources, relative)))


def _extension_package(tree: ast.Module, values: Mapping[str, Any]) -> tuple[bool, str]:
    """Whether setup() has an `ext_package`, and its value; empty where it is not plain."""
    for call in ast.walk(tree):
        if isinstance(call, ast.Call) and called(call) == "setup":
            for keyword in call.keywords:
                if keyword.arg == "ext_package":
                    value = _value(keyword.value, values)
                    return True, value if isinstance(value, str) else ""
    return False, ""


def _within(tree: ast.Module, kinds: tuple[type[ast.AST], ...]) -> Iterator[ast.AST]:
    """The nodes of these kinds and all that is within them, each once: an `elif` is within each `if` before it."""
    pending: list[tuple[ast.AST, bool]] = [(tree, False)]
    while pending:
        node, within = pending.pop()
        within = within or isinstance(node, kinds)
        if within:
            yield node
        pending += [(child, within) for child in ast.iter_child_nodes(node)]


def _place(call: ast.Call) -> tuple[int, int]:
    return call.lineno, call.col_offset


def imports(root: Path, name: str) -> set[str]:
    """The top-level modules that a Python file of the tree imports in any case, outside of functions and conditions."""
    return _imported(_parsed(root, name)[0].body)


def conditional_imports(root: Path, name: str) -> set[str]:
    """Those that the file imports within functions and conditions, but for modules that it tries to import."""
    tree = _parsed(root, name)[0]
    tried = set(_within(tree, (ast.Try,)))
    return _imported(node for node in ast.walk(tree) if node not in tried) - imports(root, name)


def _imported(nodes: Iterable[ast.AST]) -> set[str]:
    modules: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            modules.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            modules.add(node.module.partition(".")[0])
    return modules


def texts(root: Path, name: str) -> list[str]:
    """Every string in a Python file of the tree."""
    strings = (node.value for node in ast.walk(_parsed(root, name)[0]) if isinstance(node, ast.Constant))
    return [value for value in strings if isinstance(value, str)]


def options(root: Path) -> set[str]:
    """The options that the tree's setup.py looks for on its command line: "--cpp_ext" in sys.argv.

    Those that a function of setup.py looks for are the arguments of its calls.
    """
    tree = _parsed(root, "setup.py")[0]
    looked_for: list[ast.expr] = []
    functions: set[str] = set()
    pending: list[tuple[ast.AST, frozenset[str]]] = [(tree, frozenset())]
    while pending:
        node, around = pending.pop()
        if isinstance(node, ast.FunctionDef):
            around |= {node.name}
        if compared := _looked_for(node):
            looked_for += compared
            functions |= around
        pending += [(child, around) for child in ast.iter_child_nodes(node)]
    for call in calls(root, "setup.py"):
        if called(call) in functions:
            looked_for += [*call.args, *(keyword.value for keyword in call.keywords)]
    values = [node.value for node in looked_for if isinstance(node, ast.Constant)]
    return {value for value in values if isinstance(value, str) and value.startswith("--")}


def _looked_for(node: ast.AST) -> list[ast.expr]:
    """What `node` compares with the items of sys.argv."""
    match node:
        case ast.Compare(left, [ast.In() | ast.NotIn()], [ast.Attribute(attr="argv") | ast.Name(id="argv")]):
            return [left]
    return []


def attribute(root: Path, reference: str) -> str:
    """The plain value that a module of the tree assigns to a name, such as package.__version__; empty without one.

    Raises SourceError where the module's file cannot be read.
    """
    *module, name = reference.split(".")
    if not all(part.isidentifier() for part in (*module, name)):
        return ""
    stem = "/".join(module)
    # Parsed and not imported, which is what setuptools tries first too: an import may need torch or the compiled part.
    for base in ("", "src/"):
        for file in (f"{base}{stem}/__init__.py" if stem else "", f"{base}{stem}.py" if stem else ""):
            values = _parsed(root, file)[1] if file else {}
            if values.get(name) and isinstance(values[name], _SCALARS):
                return str(values[name])
    return ""


def _parsed(root: Path, name: str) -> tuple[ast.Module, dict[str, Any]]:
    """The syntax tree of a Python file, and the plain values that it assigns to names.

    Both are empty for a file that is missing or cannot be parsed. The first assignment to a name counts.
    """
    try:
        # Bytes: the parser obeys a coding comment and a byte order mark.
        tree = ast.parse(source_files.content(root, name, _LARGEST))
        values: dict[str, Any] = {}
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign):
                target: ast.expr = node.targets[0]
            elif isinstance(node, ast.AnnAssign) and node.value:
                target = node.target
            else:
                continue
            if isinstance(target, ast.Name) and node.value:
                values.setdefault(target.id, _value(node.value, values))
    # RecursionError and MemoryError: the parser's own, for what is nested too deeply.
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ast.Module([], []), {}
    return tree, values


def _value(node: ast.expr, names: Mapping[str, Any]) -> Any:
    """The value of a plain expression; None for any other, and for one that is nested deeply or grows large."""
    try:
        return _plain(node, names)
    except RecursionError:
        return None


def _plain(node: ast.expr, names: Mapping[str, Any]) -> Any:
    match node:
        case ast.Name(id=name):
            return names.get(name)
        case ast.JoinedStr(values=parts):
            texts = []
            for part in parts:
                expression = part.value if isinstance(part, ast.FormattedValue) else part
                text = _plain(expression, names)
                texts.append(text if isinstance(text, _SCALARS) else None)
            return None if None in texts else _bounded("".join(map(str, texts)))
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _sum(_plain(left, names), _plain(right, names))
        case ast.Dict(keys=keys, values=items):
            pairs = [(key and _plain(key, names), _plain(item, names)) for key, item in zip(keys, items, strict=True)]
            scalar = all(isinstance(part, _SCALARS) for pair in pairs for part in pair)
            return dict(pairs) if scalar else _literal(node)
        case ast.List(elts=elements):
            items = [_plain(element, names) for element in elements]
            # Lists of lists that names share double with each line as well, once they are written out.
            return _bounded(items) if all(isinstance(item, _SCALARS) for item in items) else None
    return _literal(node)


def _literal(node: ast.expr) -> Any:
    try:
        value = ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError):
        return None
    return None if isinstance(value, int) and value not in _INTEGERS else value


def _sum(left: Any, right: Any) -> str | list[Any] | None:
    """`left` + `right` for two strings or two lists; None for anything else."""
    if isinstance(left, str) and isinstance(right, str):
        return _bounded(left + right)
    if isinstance(left, list) and isinstance(right, list):
        return _bounded(left + right)
    return None


def _bounded(value: _Sized) -> _Sized | None:
    return value if len(value) <= _LONGEST else None
