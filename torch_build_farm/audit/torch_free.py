"""Whether a wheel is without torch: it requires none, and nothing in it is linked to torch or uses its names."""

from __future__ import annotations

from torch_build_farm.audit.loader import Contents
from torch_build_farm.audit.read_wheel import AuditedWheel
from torch_build_farm.audit.tables import AuditTables
from torch_build_farm.audit.verdict import LibraryKind, Names, describe_library
from torch_build_farm.project.external_libraries import matches_any, policy


def problems(wheel: AuditedWheel, known: AuditTables) -> list[str]:
    """Why the wheel is not without torch, a sentence each; [] for one that is."""
    known = known.for_machine(wheel.machine)
    reasons = []
    if "torch" in wheel.requires:
        reasons.append(f"METADATA requires torch{wheel.declared or ''}")
    contents = Contents(wheel.libraries, wheel.requires)
    names = Names.of(known.symbols, wheel.libraries.values())
    for path, library in sorted(wheel.libraries.items()):
        linked = [needed for needed in library.needed if matches_any(needed, policy().torch)]
        if linked:
            reasons.append(f"{path} is linked to {', '.join(linked)} of torch")
        elif describe_library(path, contents, names, known.types).kind is not LibraryKind.NEUTRAL:
            reasons.append(f"{path} uses names of torch")
    return reasons
