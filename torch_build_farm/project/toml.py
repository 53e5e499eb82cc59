"""Values as TOML."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tomlkit


def inline(value: object) -> str:
    """A value as TOML on one line."""
    if isinstance(value, Mapping):
        pairs = [f"{_key(str(k))} = {inline(v)}" for k, v in value.items()]
        return f"{{ {', '.join(pairs)} }}" if pairs else "{}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(inline, value))}]"
    return tomlkit.item(value).as_string()


def _key(name: str) -> str:
    return tomlkit.key(name).as_string()


def _array(value: object) -> str:
    """A value as TOML; an array of several an element a line."""
    if not isinstance(value, list | tuple) or len(value) < 2:
        return inline(value)
    return "[\n" + "".join(f"    {inline(one)},\n" for one in value) + "]"


def _table(mapping: Mapping[str, Any], name: str) -> str:
    """The body of TOML table `name`: its plain keys first, then its sub-tables under headers of their own."""
    keys = {str(k): v for k, v in mapping.items()}
    lines = [f"{_key(k)} = {_array(v)}\n" for k, v in keys.items() if not isinstance(v, Mapping)]
    for key, value in keys.items():
        if isinstance(value, Mapping):
            header = f"{name}.{_key(key)}"
            lines.append(f"\n[{header}]\n{_table(value, header)}")
    return "".join(lines)
