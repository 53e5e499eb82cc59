"""Sources as stubs: type checkers and editors read them beside the dispatcher, since the modules lie elsewhere."""

from __future__ import annotations

import ast

_LONGEST = 2_000_000  # bytes of a source that is rewritten; its tree takes a hundred times the memory


def as_stub(source: bytes) -> bytes:
    """A module's source as a stub that offers the same names.

    A stub re-exports only what it imports `as` itself (PEP 484), whereas a module re-exports whatever it imports: `from
    .a import b` becomes `from .a import b as b`. Everything else, and a source that cannot be parsed, stays as it is.
    """
    if len(source) > _LONGEST:
        return source
    try:
        tree = ast.parse(source.decode("utf-8"))
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # the last two: a sum of thousands, or minus signs
        return source
    lines = source.splitlines(keepends=True)  # bytes, since ast counts columns in bytes
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.end_lineno]
    # From the end, so that a rewritten import does not move the lines of those still to come.
    for node in sorted(imports, key=lambda node: -node.lineno):
        first_line, last_line = lines[node.lineno - 1], lines[(node.end_lineno or node.lineno) - 1]
        indent, rest = first_line[: node.col_offset], last_line[node.end_col_offset :]
        shares_its_line = indent.strip() or rest.split(b"#")[0].strip()
        if shares_its_line:
            continue
        for name in node.names:
            if name.name != "*" and not name.asname:
                name.asname = name.name
        lines[node.lineno - 1 : node.end_lineno] = [indent + ast.unparse(node).encode() + rest]
    return b"".join(lines)
