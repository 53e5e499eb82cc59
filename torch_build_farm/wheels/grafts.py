"""Libraries that auditwheel copied into a wheel: their names before that, and patterns that allow them."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection

# auditwheel puts the start of a library's hash before the first dot of its name: libgomp-24e2ab19.so.1.0.0.
_HASH = re.compile(r"([^.]+)-[0-9a-f]{8}(\..+)")
_SHOWN = 3  # names in a message
_FAMILY = 3  # so many libraries whose names begin alike get one pattern
_BEGINNING = re.compile(r"[^_-]+[_-]")

# What users get with a graft of these, by their names before ".so".
_RISKS = {
    "libgomp": "torch brings its own libgomp, and two OpenMP runtimes in one process are a risk: "
    'external-libraries = { "libgomp.so.1" = "torch" } leaves it to torch\'s',
    "libstdc++": "the system's C++ library is in the process too, with torch, and two C++ runtimes are a risk",
}


def original_name(file_name: str) -> str:
    """A library's file name without the hash that auditwheel adds; the name itself where it has none."""
    match = _HASH.fullmatch(file_name)
    return f"{match[1]}{match[2]}" if match else file_name


def patterns(names: Collection[str]) -> list[str]:
    """Patterns for `grafted-libraries` that allow these libraries; `names` are their original ones.

    Libraries of one project, such as libabsl_base.so and libabsl_cord.so, share a pattern.
    """
    families = defaultdict[str, list[str]](list)
    for name in sorted(names):
        stem = name.partition(".so")[0]
        beginning = _BEGINNING.match(stem)
        families[beginning[0] if beginning else stem].append(stem)
    result = []
    for beginning_of_all, stems in families.items():
        if len(stems) >= _FAMILY:
            result.append(f"{beginning_of_all}*.so*")
        else:
            result += [f"{stem}.so*" for stem in stems]
    return result


def not_allowed(paths: Collection[str]) -> str:
    """The sentence about grafted libraries, by their paths in the wheel, that no pattern allows."""
    listed = sorted(paths)
    names = {original_name(path.rpartition("/")[2]) for path in listed}
    if len(listed) == 1:
        subject = f"{listed[0]} was"
    else:
        more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
        subject = f"{len(listed)} libraries ({', '.join(sorted(names)[:_SHOWN])}{more}) were"
    sentence = f"{subject} grafted from the build machine; if that is intended, add {', '.join(patterns(names))} to "
    sentence += "grafted-libraries"
    for stem, risk in _RISKS.items():
        if any(name.partition(".so")[0] == stem for name in names):
            sentence += f"; {risk}"
    return sentence
