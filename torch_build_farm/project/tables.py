"""TOML tables -> frozen dataclasses: the types of their keys, and reading a table with every problem in it.

pydantic validates. Each type here defines what a key accepts, the message for anything else, and the JSON Schema that
editors use.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_type_hints
from urllib.parse import urlsplit

from packaging.requirements import InvalidRequirement
from packaging.specifiers import InvalidSpecifier
from packaging.utils import InvalidName
from packaging.version import InvalidVersion
from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    GetPydanticSchema,
    PlainValidator,
    StrictFloat,
    StrictInt,
    TypeAdapter,
    WithJsonSchema,
)
from pydantic import ValidationError as PydanticError
from pydantic_core import CoreSchema, ErrorDetails, core_schema

from torch_build_farm.core import toml
from torch_build_farm.core.errors import nearest
from torch_build_farm.core.machine import MACHINES, Machine
from torch_build_farm.core.paths import fault, shown
from torch_build_farm.core.requirements import check_name, read_requirement, read_specifiers, read_version
from torch_build_farm.core.versions import FLAVOUR, CPython, Minor
from torch_build_farm.project.cuda_architectures import normalised

REFERENCE = "docs/reference/settings.md and docs/reference/variants.md list every key with its type"


def kebab(name: str) -> str:
    """A field's name as a TOML key: "smoke_script" -> "smoke-script"."""
    return name.replace("_", "-")


# Every dataclass that a TOML table is read into has this configuration.
TABLE_CONFIG = ConfigDict(
    extra="forbid", alias_generator=kebab, arbitrary_types_allowed=True, use_attribute_docstrings=True
)


# ---- types of keys


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f'must be a string in quotes, such as "2.8", not {value!r}')
    return value


def _minor(value: object) -> Minor:
    return Minor.parse(_text(value))


def _cpython(value: object) -> CPython:
    return CPython.parse(_text(value))


def _platform(value: object) -> Machine:
    name = _text(value)
    known = {machine.name: machine for machine in MACHINES}
    if name not in known:
        raise ValueError(f"{name!r} is no platform that torch has Linux wheels for; {nearest(name, known)}")
    return known[name]


def _version(value: object) -> str:
    text = _text(value)
    try:
        read_version(text)
    except InvalidVersion as error:
        raise ValueError(str(error)) from None
    return text


def _version_or_none(value: object) -> str:
    return _version(value) if value != "" else ""


def _requirement(value: str) -> str:
    try:
        read_requirement(value)
    except InvalidRequirement as error:
        # The lines below the first one point at the place in the text with ^ and ~.
        raise ValueError(str(error).splitlines()[0]) from None
    return value


def _checkout_or_requirement(value: str) -> str:
    return value if value == "." else _requirement(value)


def _absolute_folder(value: str) -> str:
    # Several of them are joined with colons.
    if not value.startswith("/") or ":" in value or ".." in value.split("/"):
        raise ValueError(f"{value!r} is not the absolute path of a folder, such as /opt/fmt")
    return value


def _cmake_defines(value: Mapping[str, str]) -> Mapping[str, str]:
    if "CMAKE_PREFIX_PATH" in value:
        raise ValueError("CMAKE_PREFIX_PATH would hide what the back end and torch set: name its folders in prefixes")
    return value


def _plain_word(value: str) -> str:
    if not re.fullmatch(_PLAIN_WORD, value):
        raise ValueError(f"{value!r}: only letters, digits, '.', '_' and '-' are allowed")
    return value


def _upload_url(value: str) -> str:
    if not re.fullmatch(_UPLOAD_URL, value):
        raise ValueError(f"{value!r} is neither pypi, nor testpypi, nor a URL that twine can upload to")
    return value


def _index_url(value: str) -> str:
    if not re.fullmatch(r"[!-~]+", value):
        raise ValueError(f"{value!r:.200} is not one URL: it has spaces or characters that a URL cannot have")
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{value!r} is not the URL of a package index, such as https://example.org/whl/cu126")
    if parts.username or parts.password:
        raise ValueError("has a name or password in it, which this file would show to everybody; use a netrc file")
    return value


def _distribution(value: str) -> str:
    try:
        check_name(value)
    except InvalidName as error:
        raise ValueError(str(error)) from None
    return value


def _folder_within(value: str) -> str:
    name = posixpath.normpath(value)
    # As paths say it of whatever others chose; "." is the top itself.
    reason = fault(name)
    if reason:
        raise ValueError(f"{shown(value)} {reason}")
    return "" if name == "." else name


def _import_name(value: str) -> str:
    if not all(part.isidentifier() for part in value.split(".")):
        raise ValueError(f"{value!r} is not an import name such as package.module")
    return value


def _specifiers(value: object) -> str:
    text = _text(value)
    try:
        read_specifiers(text)
    except InvalidSpecifier:
        raise ValueError(f'{text!r} is no version specifier such as ">=2.12" or "==2.9.*"') from None
    return text


def _minors(value: object) -> str | tuple[Minor, ...]:
    return tuple(_minor(text) for text in value) if isinstance(value, list) else _specifiers(value)


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _build_environment(value: Mapping[str, str]) -> Mapping[str, str]:
    taken = sorted(set(value) & FARMS_VARIABLES)
    if taken:
        raise ValueError(f"{', '.join(taken)}: the farm sets this itself")
    return value


def _config_setting(value: object) -> str | tuple[str, ...]:
    values: list[str] = []
    for text in value if isinstance(value, list) else [value]:
        if not isinstance(text, str):
            raise ValueError("must be a string or a list of strings")
        values.append(text)
    if not values:
        raise ValueError("must name something, or be left out")
    if any("\0" in text for text in values):
        raise ValueError("has a NUL, which no command line can carry")
    # Front ends have no way to pass a list of one.
    return values[0] if len(values) == 1 else tuple(values)


def _config_settings(value: Mapping[str, str | tuple[str, ...]]) -> Mapping[str, str | tuple[str, ...]]:
    for name in value:
        if not re.fullmatch(r"[^\s='\"\\]+", name):
            raise ValueError(f"{name!r} is no name of a config setting: it may hold no space, quote, backslash or =")
        if name in _FARMS_CONFIG_SETTINGS:
            raise ValueError(f"{name}: the farm sets this itself")
    return value


def _as_text(read: Callable[[object], object]) -> GetPydanticSchema:
    """What a type is in tables: text that `read` turns into it.

    The validators that pydantic has for that build a schema of the type itself as well, which takes longer than reading
    all variants files.
    """

    def schema(_source: object, _handler: object) -> CoreSchema:
        as_text = core_schema.plain_serializer_function_ser_schema(str)  # of defaults in references
        return core_schema.no_info_plain_validator_function(read, serialization=as_text)

    return GetPydanticSchema(schema)


# Environment variables of a build that only the farm sets: with other values it would be another build.
FARMS_VARIABLES = {"MAKEFLAGS", "PATH", "SKBUILD_BUILD_DIR", "SOURCE_DATE_EPOCH", "TMPDIR", "TORCH_BUILD_FARM_ASKED",
                    "TORCH_BUILD_FARM_SDK", "TORCH_BUILD_FARM_SYSROOT", "UV_CACHE_DIR", "UV_CONSTRAINT", "UV_NO_BUILD",
                    "VIRTUAL_ENV"}  # fmt: skip
# The build folder, as scikit-build-core and meson-python call it.
_FARMS_CONFIG_SETTINGS = {"build-dir", "builddir", "skbuild.build-dir"}
# Text that `ci` writes into workflows, where quotes, spaces and $ have a meaning of their own.
_PLAIN_WORD = r"[A-Za-z0-9][\w.-]*"
_UPLOAD_URL = r"pypi|testpypi|https?://[\w.:/~%-]+"
_STRING = {"type": "string"}
_MINOR = rf"^(0|[1-9]\d*)\.(0|[1-9]\d*)(:{FLAVOUR})?$"

PositiveNumber = Annotated[
    StrictInt | StrictFloat, Field(gt=0), WithJsonSchema({"type": "number", "exclusiveMinimum": 0})
]
NumberFromZero = Annotated[StrictInt | StrictFloat, Field(ge=0), WithJsonSchema({"type": "number", "minimum": 0})]
MinorName = Annotated[Minor, _as_text(_minor), WithJsonSchema({**_STRING, "pattern": _MINOR})]
CPythonName = Annotated[CPython, _as_text(_cpython), WithJsonSchema({**_STRING, "pattern": r"^(\d\.\d+t?|cp\d\d+t?)$"})]
PlatformName = Annotated[
    Machine,
    _as_text(_platform),
    WithJsonSchema({**_STRING, "enum": [machine.name for machine in MACHINES]}),
]
VersionText = Annotated[str, BeforeValidator(_version)]
CudaRelease = Annotated[str, BeforeValidator(_version_or_none)]
RequirementText = Annotated[str, AfterValidator(_requirement)]
CheckoutOrRequirement = Annotated[str, AfterValidator(_checkout_or_requirement)]
# As TORCH_CUDA_ARCH_LIST has them too: "8.0;9.0+PTX".
CudaArchitectures = Annotated[
    tuple[str, ...],
    BeforeValidator(_as_list),
    AfterValidator(normalised),
    WithJsonSchema({"anyOf": [_STRING, {"type": "array", "items": _STRING}]}),
]
PlainWord = Annotated[str, AfterValidator(_plain_word), WithJsonSchema({**_STRING, "pattern": f"^{_PLAIN_WORD}$"})]
IndexUrl = Annotated[str, AfterValidator(_index_url)]
UploadUrl = Annotated[str, AfterValidator(_upload_url), WithJsonSchema({**_STRING, "pattern": f"^({_UPLOAD_URL})$"})]
SpecifierText = Annotated[str, BeforeValidator(_specifiers)]
MinorSelector = Annotated[
    str | tuple[Minor, ...],
    PlainValidator(_minors),
    WithJsonSchema({"anyOf": [_STRING, {"type": "array", "items": {**_STRING, "pattern": _MINOR}}]}),
]
BuildEnvironment = Annotated[Mapping[str, str], AfterValidator(_build_environment)]
ConfigSettings = Annotated[
    Mapping[
        str,
        Annotated[
            str | tuple[str, ...],
            PlainValidator(_config_setting),
            WithJsonSchema({"anyOf": [_STRING, {"type": "array", "items": _STRING, "minItems": 1}]}),
        ],
    ],
    AfterValidator(_config_settings),
]
DistributionName = Annotated[str, AfterValidator(_distribution)]
ImportName = Annotated[str, AfterValidator(_import_name)]
FolderWithin = Annotated[str, AfterValidator(_folder_within)]
AbsoluteFolder = Annotated[str, AfterValidator(_absolute_folder)]
CMakeDefines = Annotated[Mapping[str, str], AfterValidator(_cmake_defines)]


# ---- reading

Shape = TypeVar("Shape")


_adapters: dict[type, TypeAdapter[Any]] = {}


def adapter(shape: type[Shape]) -> TypeAdapter[Shape]:
    """The adapter of pydantic for a dataclass, made once: that takes longer than reading a table with it."""
    if shape not in _adapters:
        _adapters[shape] = TypeAdapter(shape)
    return _adapters[shape]


def load_toml(path: Path, problems: list[str]) -> dict[str, Any] | None:
    """The content of a TOML file; None, and a line in `problems`, where it cannot be read."""
    try:
        return toml.load(path)
    except toml.TomlError as error:
        problems.append(f"{path}: not valid TOML: {error}")
    except OSError as error:
        problems.append(f"{path}: cannot be read: {error.strerror}")
    return None


def read_table(shape: type[Shape], table: Mapping[str, Any], where: str, problems: list[str]) -> Shape | None:
    """`table` as a `shape`; None, and a line in `problems` for each problem, where it is wrong.

    `where` begins each line, such as "pyproject.toml: [tool.torch-build-farm]".
    """
    try:
        return adapter(shape).validate_python(table)
    except PydanticError as error:
        for problem in error.errors():
            line = f"{where}: {_problem_text(shape, problem)}"
            if line not in problems:  # each member of a union reports a wrong value
                problems.append(line)
        return None


def _problem_text(shape: type, problem: ErrorDetails) -> str:
    """One of pydantic's problems in TOML's words: "cpython[0]: 'py310' is not a CPython such as 3.12"."""
    # pydantic names the member of a union that refused a value; in TOML there is no such part.
    location = [part for part in problem["loc"] if part not in ("int", "float")]
    if problem["type"] == "unexpected_keyword_argument":
        known = _keys_of(shape, location[:-1])
        message = f"unknown key; {nearest(str(location[-1]), known)}"
    elif problem["type"] in ("missing", "missing_argument"):
        message = "missing key"
    else:
        message = problem["msg"].removeprefix("Value error, ")
    return f"{_key_text(location)}: {message}"


def _keys_of(shape: type, path: list[int | str]) -> list[str]:
    """The keys of a table, or of one of its tables, which lies under `path`."""
    for key in path:
        # From each table to the dataclass of the table below it, or of the tables in a list.
        shape = get_args(shape)[0] if isinstance(key, int) else get_type_hints(shape)[str(key).replace("-", "_")]
        if type(None) in get_args(shape):  # a table that may be left out
            (shape,) = set(get_args(shape)) - {type(None)}
    return [kebab(field.name) for field in fields(shape)]


def _key_text(location: list[int | str]) -> str:
    """A TOML key as people write it: ["cpython", 0] -> "cpython[0]", ["ci", "index"] -> "ci.index"."""
    text = ""
    for part in location:
        if isinstance(part, int):
            text += f"[{part}]"
        elif text:
            text += f".{part}"
        else:
            text = part
    return text
