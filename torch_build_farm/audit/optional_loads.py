"""Whether a wheel's Python code goes on without a library of its own.

A wheel may have a library for each of some torches, and load the one that fits. With a torch that has none it depends
on the Python code around the load whether the package fails to import or does without: torch_c_dlpack_ext adds to older
torches what newer ones have. The code is parsed and never run.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Sequence

_LOADERS = {"CDLL", "PyDLL", "LoadLibrary", "load_library"}  # ctypes, torch.ops and torch.classes
_LOADS = re.compile("|".join(sorted(_LOADERS)).encode())
_MOST_BYTES = 1 << 18  # of a module that is parsed; code that loads a library is short
_MOST_MODULES = 50
# Whether a file is there (os.path, pathlib), and what torch can do or is.
_ASKED = {"exists", "isfile", "is_file", "torch"}

_Scope = ast.Module | ast.FunctionDef | ast.AsyncFunctionDef


def mentions_load(content: bytes) -> bool:
    """Whether a module's text mentions a function that loads libraries."""
    return len(content) <= _MOST_BYTES and bool(_LOADS.search(content))


def optional_load(modules: Mapping[str, bytes]) -> str:
    """Where the Python modules (sources by path) load a library that they do without, such as "a/b.py, line 3".

    Empty if they load none, or if at least one load has to succeed.
    """
    place = ""
    loading = [path for path, content in modules.items() if mentions_load(content)]
    if len(loading) > _MOST_MODULES:
        return ""
    for path in sorted(loading):
        try:
            tree = ast.parse(modules[path])
            loads = list(_loads(tree))
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return ""
        for call, optional in loads:
            if not optional:
                return ""
            place = place or f"{path}, line {call.lineno}"
    return place


def _loads(tree: ast.Module) -> Iterator[tuple[ast.Call, bool]]:
    """Each load of a library whose name is computed, and whether its module or function goes on without it."""
    scopes: list[_Scope] = [tree]
    scopes += [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    for scope in scopes:
        yield from _loads_in(scope.body, optional=False)


def _loads_in(body: Sequence[ast.stmt], *, optional: bool) -> Iterator[tuple[ast.Call, bool]]:
    """The loads among these statements; `optional` tells whether one around them makes them so."""
    for statement in body:
        match statement:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                continue  # a scope of its own
            case ast.If():
                yield from _calls(statement.test, optional)
                asked = _asks(statement.test)
                yield from _loads_in(statement.body, optional=optional or (asked and not _raises(statement.orelse)))
                yield from _loads_in(statement.orelse, optional=optional or (asked and not _raises(statement.body)))
                # What follows is not reached where the function returns.
                optional = optional or (asked and any(isinstance(inner, ast.Return) for inner in statement.body))
            case ast.Try():
                caught = bool(statement.handlers) and not any(_raises(handler.body) for handler in statement.handlers)
                yield from _loads_in(statement.body, optional=optional or caught)
                for inner in (statement.orelse, statement.finalbody, *(entry.body for entry in statement.handlers)):
                    yield from _loads_in(inner, optional=optional)
            case ast.For() | ast.While() | ast.With() | ast.ClassDef():
                yield from _loads_in(statement.body, optional=optional)
            case _:
                yield from _calls(statement, optional)


def _calls(node: ast.AST, optional: bool) -> Iterator[tuple[ast.Call, bool]]:
    for inner in ast.walk(node):
        if not isinstance(inner, ast.Call) or _name(inner.func) not in _LOADERS:
            continue
        # A name that is written out is one library for every torch, such as libc.so.6.
        if inner.args and not isinstance(inner.args[0], ast.Constant):
            yield inner, optional


def _name(function: ast.expr) -> str:
    """The last part of a function's name; empty for anything but a name."""
    match function:
        case ast.Attribute(attr=name) | ast.Name(id=name):
            return name
    return ""


def _asks(test: ast.expr) -> bool:
    """Whether a condition is about torch, or about whether a file is there."""
    names = [_name(inner) for inner in ast.walk(test) if isinstance(inner, ast.expr)]
    return not _ASKED.isdisjoint(names)


def _raises(body: Sequence[ast.stmt]) -> bool:
    return any(isinstance(inner, ast.Raise) for statement in body for inner in ast.walk(statement))
