"""Sources as stubs: what type checkers and editors read beside the dispatcher, since the modules lie elsewhere."""

from __future__ import annotations

import ast


def as_stub(source: bytes) -> bytes:
    """A module's source as a stub that offers the same names.

    A stub re-exports only what it imports `as` itself (PEP 484), a module whatever it imports: `from .a import b`
    becomes `from .a import b as b`. Everything else, and a source that cannot be parsed, stays as it is.
    """
    try:
        tree = ast.parse(source.decode("utf-8"))
    except (SyntaxError, ValueError):
        return source
    lines = source.splitlines(keepends=True)  # as bytes, since ast counts columns in those
    found = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.end_lineno]
    for node in sorted(found, key=lambda node: -node.lineno):
        first, last = lines[node.lineno - 1], lines[(node.end_lineno or node.lineno) - 1]
        indent, rest = first[: node.col_offset], last[node.end_col_offset :]
        if indent.strip() or rest.split(b"#")[0].strip():  # another statement on its line
            continue
        for name in node.names:
            name.asname = name.asname or (name.name if name.name != "*" else None)
        lines[node.lineno - 1 : node.end_lineno] = [indent + ast.unparse(node).encode() + rest]
    return b"".join(lines)
