"""Expressions of GitHub Actions, as far as the farm's workflows use them; anything else is an error."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

_TOKEN = re.compile(r"\s*(?:(?P<text>'(?:[^']|'')*')|(?P<number>\d+)|(?P<name>[A-Za-z_][\w-]*)|(?P<sign>&&|\|\||==|!=|[!().\[\],]))")  # fmt: skip
_PLACE = re.compile(r"\$\{\{((?:(?!\}\}).)*)\}\}", re.DOTALL)
STATUS = {"success", "failure", "cancelled", "always"}


class Unknown(Exception):  # noqa: N818
    """Something that this runner does not know: the workflow may be right all the same."""


class Lenient(dict[str, Any]):
    """A context whose missing members are empty, as secrets and outputs are."""


def _tokens(text: str) -> list[tuple[str, str]]:
    found, place, text = [], 0, text.strip()
    while place < len(text):
        match = _TOKEN.match(text, place)
        if match is None or match.lastgroup is None:
            raise Unknown(f"{text[place:]!r} in {text!r}")
        found.append((match.lastgroup, match[match.lastgroup]))
        place = match.end()
    return found


def _number(value: object) -> float:
    if value is None or value == "":
        return 0
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return float("nan")


def _equal(one: object, other: object) -> bool:
    if isinstance(one, str) and isinstance(other, str):
        return one.lower() == other.lower()
    return one == other if type(one) is type(other) else _number(one) == _number(other)


def _to_json(value: object) -> str:
    return json.dumps(value, indent=2)


class _Reader:
    def __init__(self, text: str, contexts: Mapping[str, Any], functions: Mapping[str, Callable[..., Any]]) -> None:
        self.text, self.tokens = text, _tokens(text)
        self.contexts = contexts
        self.functions: dict[str, Callable[..., Any]] = {"fromJSON": json.loads, "toJSON": _to_json, **functions}

    def take(self, *signs: str) -> str:
        if self.tokens and self.tokens[0] in [("sign", sign) for sign in signs]:
            return self.tokens.pop(0)[1]
        return ""

    def expect(self, sign: str) -> None:
        if not self.take(sign):
            raise Unknown(f"no {sign!r} where there should be one in {self.text!r}")

    def either(self) -> Any:
        value = self.both()
        while self.take("||"):
            other = self.both()
            value = value or other
        return value

    def both(self) -> Any:
        value = self.comparison()
        while self.take("&&"):
            other = self.comparison()
            value = value and other
        return value

    def comparison(self) -> Any:
        value = self.single()
        while sign := self.take("==", "!="):
            value = _equal(value, self.single()) == (sign == "==")
        return value

    def single(self) -> Any:
        if self.take("!"):
            return not self.single()
        if self.take("("):
            value = self.either()
            self.expect(")")
            return value
        if not self.tokens:
            raise Unknown(f"{self.text!r} ends too early")
        kind, word = self.tokens.pop(0)
        if kind == "text":
            return word[1:-1].replace("''", "'")
        if kind == "number":
            return int(word)
        if kind == "name":
            return self.named(word)
        raise Unknown(f"{word!r} in {self.text!r}")

    def named(self, word: str) -> Any:
        if word in ("true", "false", "null"):
            return {"true": True, "false": False, "null": None}[word]
        if self.take("("):
            arguments = []
            while not self.take(")"):
                arguments.append(self.either())
                self.take(",")
            if word not in self.functions:
                raise Unknown(f"the function {word} in {self.text!r}")
            return self.functions[word](*arguments)
        if word not in self.contexts:
            raise Unknown(f"the context {word} in {self.text!r}")
        value = self.contexts[word]
        while self.take("."):
            member = self.tokens.pop(0)[1]
            if value is None:  # as of a step that did not run
                continue
            if not isinstance(value, Lenient) and member not in value:
                raise Unknown(f"{member!r} in {self.text!r}; known: {', '.join(value)}")
            value = value.get(member)
        return value


def evaluate(text: str, contexts: Mapping[str, Any], functions: Mapping[str, Callable[..., Any]] | None = None) -> Any:
    """The value of an expression."""
    reader = _Reader(text, contexts, functions or {})
    value = reader.either()
    if reader.tokens:
        raise Unknown(f"{reader.tokens[0][1]!r} in {text!r}")
    return value


def _as_text(value: Any) -> str:
    if isinstance(value, dict | list):
        raise Unknown("an object where text is wanted")
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def fill(value: Any, contexts: Mapping[str, Any]) -> Any:
    """A value of the workflow with its expressions evaluated; one that is a single expression keeps its type."""
    if isinstance(value, dict):
        return {key: fill(one, contexts) for key, one in value.items()}
    if isinstance(value, list):
        return [fill(one, contexts) for one in value]
    if not isinstance(value, str):
        return value
    if match := _PLACE.fullmatch(value.strip()):
        return evaluate(match[1], contexts)
    return _PLACE.sub(lambda match: _as_text(evaluate(match[1], contexts)), value)


def text(value: Any, contexts: Mapping[str, Any]) -> str:
    """A value as the text that a variable or an action's input gets."""
    return _as_text(fill(value, contexts))


def condition(value: object, contexts: Mapping[str, Any], functions: Mapping[str, Callable[..., Any]]) -> bool:
    """An `if`: `success() &&` is implied where it asks for no status itself."""
    expression = str(value) if value is not None else "success()"
    if match := _PLACE.fullmatch(expression.strip()):
        expression = match[1]
    if not any(re.search(rf"\b{name}\(", expression) for name in STATUS):
        expression = f"success() && ({expression})"
    return bool(evaluate(expression, contexts, functions))
