"""[tool.cibuildwheel] in the words of [tool.torch-build-farm] (cibuildwheel's manual, "Options").

The farm does not read that table: it says how one wheel a CPython is made, and not how one a torch is.
"""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement

from torch_build_farm.core.toml import table_in
from torch_build_farm.project.external_libraries import is_external
from torch_build_farm.project.settings import Settings
from torch_build_farm.project.tables import FARMS_VARIABLES, read_table

# They choose machines and tools, and change no wheel of the farm's.
_NO_MATTER = {"archs", "build-frontend", "build-verbosity", "container-engine", "debug-traceback", "enable",
              "dependency-versions", "free-threaded-support", "linux", "macos", "windows", "android", "ios",
              "pyodide", "test-environment-verbosity"}  # fmt: skip
_INSTALLERS = re.compile(r"(?:sudo\s+)?(?P<tool>yum|dnf|microdnf|apt-get|apt)\s+(?P<rest>.*)")
_PIP = re.compile(r"(?:python3?\s+-m\s+)?(?:uv\s+)?pip\s+install\s+(?P<rest>.*)")


@dataclass(frozen=True)
class Translation:
    """Keys of the farm's table and their values, and a sentence for each key that has no equal there."""

    settings: Mapping[str, Any]
    notes: tuple[str, ...]


def translate(pyproject: Mapping[str, Any]) -> Translation:
    """What [tool.cibuildwheel] of a pyproject.toml says for Linux, in the farm's words."""
    table = table_in(pyproject, "tool", "cibuildwheel")
    options = {**table, **table_in(table, "linux")}
    settings: dict[str, Any] = {}
    notes: list[str] = []
    for key, value in options.items():
        translator = _TRANSLATORS.get(key)
        if translator:
            for name, translated in translator(value):
                if name is None:
                    notes.append(f"{key}: {translated}")
                else:
                    _join(settings, name, translated)
        elif key not in _NO_MATTER and value:
            notes.append(f"{key} = {_shown(value)} has no equal here")
    for key in sorted(settings):
        problems: list[str] = []
        read_table(Settings, {"name": "x", "packages": ["x"], key: settings[key]}, "", problems)
        if problems:  # no key of the farm's, or not with that value
            notes.append(f"{key} = {_shown(settings.pop(key))} has no equal here")
    return Translation(settings, tuple(notes))


def unread(pyproject: Mapping[str, Any], settings: Settings) -> tuple[str, ...]:
    """The keys of the farm's table that [tool.cibuildwheel] says something for, and the farm's table does not."""
    translated = translate(pyproject).settings
    return tuple(sorted(key for key in translated if not getattr(settings, key.replace("-", "_"))))


_Translated = Iterator[tuple[str | None, Any]]


def _join(settings: dict[str, Any], name: str, value: Any) -> None:
    """Add a value to what another key said of the same name."""
    old = settings.get(name)
    if isinstance(old, dict):
        for key, item in value.items():
            old[key] = [*old[key], *item] if isinstance(old.get(key), list) else item
    elif isinstance(old, list):
        settings[name] = [*old, *(item for item in value if item not in old)]
    else:
        settings[name] = value


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    return " ".join(text.split())[:200]


def _commands(value: Any) -> list[str]:
    """A command, or a list of them; a line break or && separates commands as well."""
    texts = [value] if isinstance(value, str) else value if isinstance(value, list) else []
    parts = [part.strip() for text in texts if isinstance(text, str) for part in re.split(r"\n|&&", text)]
    return [part for part in parts if part]


def _words(value: Any) -> list[str]:
    texts = value.split() if isinstance(value, str) else value if isinstance(value, list) else []
    return [text for text in texts if isinstance(text, str)]


def _before_all(value: Any) -> _Translated:
    for command in _commands(value):
        match = _INSTALLERS.fullmatch(command)
        words = match["rest"].split() if match else []
        packages = [word for word in words if re.fullmatch(r"[\w.+-]+", word) and not word.startswith("-")]
        if match and packages[:1] == ["install"]:
            yield "system-packages", {"apt" if "apt" in match["tool"] else "dnf": packages[1:]}
        elif not (match and packages[:1] in (["update"], ["upgrade"], ["clean"], ["makecache"])):
            yield None, f"{_shown(command)!r} ran once an image; before-build runs it before each build"


def _before_build(value: Any) -> _Translated:
    for command in _commands(value):
        match = _PIP.fullmatch(command)
        words = [word for word in _shell_words(match["rest"]) if not word.startswith("-")] if match else []
        if words and all(_is_requirement(word) for word in words):
            requirements = [word for word in words if Requirement(word).name != "torch"]
            if requirements:
                yield "build-requires", requirements
        elif "{wheel}" in command or "{dest_dir}" in command:
            yield None, f"{_shown(command)!r} has no equal here"
        else:
            # The farm runs commands in the source itself.
            yield "before-build", [re.sub(r"\{(?:project|package)\}", ".", command)]


def _shell_words(text: str) -> list[str]:
    """The words of a command; none where its quotes do not end."""
    try:
        return shlex.split(text)
    except ValueError:
        return []


def _is_requirement(text: str) -> bool:
    try:
        return Requirement(text).url is None
    except InvalidRequirement:
        return False


def _environment(value: Any) -> _Translated:
    variables = dict(value) if isinstance(value, dict) else {}
    if isinstance(value, str):
        for word in _shell_words(value):
            name, equals, text = word.partition("=")
            if equals:
                variables[name] = text
    plain = {}
    for name, text in variables.items():
        if not re.fullmatch(r"[A-Za-z_]\w*", name) or name in FARMS_VARIABLES or "$" in str(text):
            yield None, f"{_shown(f'{name}={text}')} depends on where it runs, or the farm sets it"
        else:
            plain[name] = str(text)
    if plain:
        yield "environment", plain


def _config_settings(value: Any) -> _Translated:
    if isinstance(value, dict):
        yield "config-settings", value
        return
    settings: dict[str, Any] = {}
    for word in _shell_words(value) if isinstance(value, str) else ():
        name, _, text = word.partition("=")
        settings[name] = text
    if settings:
        yield "config-settings", settings


def _test_command(value: Any) -> _Translated:
    texts = [value] if isinstance(value, str) else value
    commands = [text for text in texts if isinstance(text, str)] if isinstance(texts, list) else []
    if commands:
        yield "test-command", commands


def _test_requires(value: Any) -> _Translated:
    requirements = [word for word in _words(value) if _is_requirement(word)]
    if requirements:
        yield "test-requires", requirements


def _test_extras(value: Any) -> _Translated:
    texts = value.split(",") if isinstance(value, str) else _words(value)
    extras = [text.strip() for text in texts if re.fullmatch(r"[A-Za-z0-9][\w.-]*", text.strip())]
    if extras:
        yield "test-extras", extras


def _repair(value: Any) -> _Translated:
    """The libraries that auditwheel leaves out. Those of torch and CUDA the farm leaves out by itself."""
    for command in _commands(value):
        words = _shell_words(command)
        excluded = [word.partition("=")[2] for word in words if word.startswith("--exclude=")]
        excluded += [after for word, after in itertools.pairwise(words) if word == "--exclude"]
        others = {library: "system" for library in excluded if ".so" in library and not is_external(library)}
        if others:
            yield "external-libraries", others
            yield None, f'who brings {", ".join(others)}? a distribution by its name, or "system"'
        if "auditwheel" not in words:
            yield None, f"{_shown(command)!r} has no equal here"


def _pythons(value: Any) -> _Translated:
    yield None, f"{_shown(value)!r} chooses builds; here --python and --only do, and ci.python in workflows"


def _image(value: Any) -> _Translated:
    yield None, f"{_shown(value)} is the image; here each torch has its own, and --base-image names another"


_TRANSLATORS = {
    "before-all": _before_all,
    "before-build": _before_build,
    "environment": _environment,
    "config-settings": _config_settings,
    "test-command": _test_command,
    "test-requires": _test_requires,
    "test-extras": _test_extras,
    "repair-wheel-command": _repair,
    "build": _pythons,
    "skip": _pythons,
    "manylinux-x86_64-image": _image,
}
