"""Whether a wheel's Python code goes on without a library of its own.

A wheel may have a library for each of some torches, and load the one that fits. With a torch that has none it depends
on the Python code around the load whether the package fails to import or does without: torch_c_dlpack_ext adds to older
torches what newer ones have. The code is parsed and never run.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

_LOADERS = {"CDLL", "PyDLL", "LoadLibrary", "load_library"}  # ctypes, torch.ops and torch.classes
_LOADS = re.compile("|".join(sorted(_LOADERS)).encode())
_MOST_BYTES = 1 << 18  # of a module that is parsed; code that loads a library is short
_MOST_MODULES = 50
# Whether a file is there (os.path, pathlib), and what torch can do or is.
_ASKED = {"exists", "isfile", "is_file", "torch"}

_Scope = ast.Module | ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class OptionalLoad:
    """A load of a library without which Python code goes on.

    `place` is such as "a/b.py, line 3", empty if there is no such load. `attributes` are those of torch's of which the
    code wants one to go on; empty if it depends on something else.
    """

    place: str = ""
    attributes: frozenset[str] = frozenset()


NO_OPTIONAL_LOAD = OptionalLoad()

# Why a load is optional: the attributes that the code asks torch for, empty for another reason, None if it is not.
_Reason = frozenset[str] | None


def mentions_load(content: bytes) -> bool:
    """Whether a module's text mentions a function that loads libraries."""
    return len(content) <= _MOST_BYTES and bool(_LOADS.search(content))


def optional_load(modules: Mapping[str, bytes]) -> OptionalLoad:
    """The first load of the Python modules (sources by path), if they do without each library that they load.

    None, with an empty place, if they load no library, or if at least one load has to succeed.
    """
    found = NO_OPTIONAL_LOAD
    loading = [path for path, content in modules.items() if mentions_load(content)]
    if len(loading) > _MOST_MODULES:
        return NO_OPTIONAL_LOAD
    for path in sorted(loading):
        try:
            tree = ast.parse(modules[path])
            loads = list(_loads(tree))
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return NO_OPTIONAL_LOAD
        for call, reason in loads:
            if reason is None:
                return NO_OPTIONAL_LOAD
            if not found.place:
                found = OptionalLoad(f"{path}, line {call.lineno}", reason)
    return found


def _loads(tree: ast.Module) -> Iterator[tuple[ast.Call, _Reason]]:
    """Each load of a library whose name is computed, and why its module or function goes on without it."""
    scopes: list[_Scope] = [tree]
    scopes += [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    for scope in scopes:
        yield from _loads_in(scope.body, None)


def _loads_in(body: Sequence[ast.stmt], reason: _Reason) -> Iterator[tuple[ast.Call, _Reason]]:
    """The loads among these statements; `reason` is the one that a statement around them gives."""
    for statement in body:
        match statement:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                continue  # a scope of its own
            case ast.If():
                yield from _calls(statement.test, reason)
                asked = _asked(statement.test)
                yield from _loads_in(statement.body, _either(reason, None if _raises(statement.orelse) else asked))
                yield from _loads_in(statement.orelse, _either(reason, None if _raises(statement.body) else asked))
                # What follows is not reached where the function returns.
                returns = any(isinstance(inner, ast.Return) for inner in statement.body)
                reason = _either(reason, asked if returns else None)
            case ast.Try():
                caught = bool(statement.handlers) and not any(_raises(handler.body) for handler in statement.handlers)
                yield from _loads_in(statement.body, _either(reason, frozenset() if caught else None))
                for inner in (statement.orelse, statement.finalbody, *(entry.body for entry in statement.handlers)):
                    yield from _loads_in(inner, reason)
            case ast.For() | ast.While() | ast.With() | ast.ClassDef():
                yield from _loads_in(statement.body, reason)
            case _:
                yield from _calls(statement, reason)


def _either(first: _Reason, second: _Reason) -> _Reason:
    """The first reason if there is one, else the second."""
    return second if first is None else first


def _calls(node: ast.AST, reason: _Reason) -> Iterator[tuple[ast.Call, _Reason]]:
    for inner in ast.walk(node):
        if not isinstance(inner, ast.Call) or _name(inner.func) not in _LOADERS:
            continue
        # A name that is written out is one library for every torch, such as libc.so.6.
        if inner.args and not isinstance(inner.args[0], ast.Constant):
            yield inner, reason


def _name(function: ast.expr) -> str:
    """The last part of a function's name; empty for anything but a name."""
    match function:
        case ast.Attribute(attr=name) | ast.Name(id=name):
            return name
    return ""


def _asked(test: ast.expr) -> _Reason:
    """The reason that a condition gives: None unless it is about torch, or about whether a file is there."""
    names = [_name(inner) for inner in ast.walk(test) if isinstance(inner, ast.expr)]
    return None if _ASKED.isdisjoint(names) else _attributes(test)


def _attributes(test: ast.expr) -> frozenset[str]:
    """The attributes by which a condition asks torch, if it only asks whether torch has one: hasattr(torch.x, "y")."""
    parts = test.values if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.Or) else [test]
    attributes = set()
    for part in parts:
        match part:
            case ast.Call(func=ast.Name(id="hasattr"), args=[_, ast.Constant(value=str(name))]):
                attributes.add(name)
            case _:
                return frozenset()
    return frozenset(attributes)


def _raises(body: Sequence[ast.stmt]) -> bool:
    return any(isinstance(inner, ast.Raise) for statement in body for inner in ast.walk(statement))
