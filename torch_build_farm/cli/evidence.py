"""The case for a new variant, as Markdown for a pull request; the templates are data/evidence-*.md.j2."""

from __future__ import annotations

from collections.abc import Sequence

from torch_build_farm.audit import output
from torch_build_farm.audit.changes import Changes
from torch_build_farm.core.files import size_text
from torch_build_farm.core.resources import DATA
from torch_build_farm.core.templates import markdown_environment
from torch_build_farm.core.text import Markdown
from torch_build_farm.core.versions import CPython
from torch_build_farm.pipeline.facts import CoreSmokeFacts, SmokeFacts
from torch_build_farm.pipeline.results import JobResult, audit_verdicts
from torch_build_farm.project.variant import Variant
from torch_build_farm.releases.facts import Facts
from torch_build_farm.releases.variant_file import Edit


def against(facts: Facts, before: Variant) -> list[str]:
    """How a minor's requirements and CPythons differ from those of the minor before, one phrase each."""
    news = []
    cuda = str(facts["cuda"].value)
    if cuda != before.cuda:
        major_changed = cuda.partition(".")[0] != before.cuda_major
        news.append(f"CUDA {before.cuda} -> {cuda}{': another major, so another toolkit' if major_changed else ''}")

    tags = facts["cpython"].value
    assert isinstance(tags, tuple)
    tags_before = [python.tag for python in before.cpython]
    dropped = [tag for tag in tags_before if tag not in tags]
    added = [tag for tag in tags if tag not in tags_before]
    if dropped:
        news.append(f"no CPython {_pythons(dropped)} any more")
    if added:
        news.append(f"CPython {_pythons(added)} is new")

    # What decides about compilers and containers.
    for key, value_before, name in (
        ("cxx-standard", before.cxx_standard, "C++"),
        ("gcc", before.gcc, "GCC"),
        ("image", before.image, "image"),
    ):
        if facts[key].value != value_before:
            news.append(f"{name} {value_before} -> {facts[key].value}")
    return news


def _pythons(tags: Sequence[str]) -> str:
    """CPython tags as people write them: "3.9, 3.10" for cp39 and cp310."""
    return ", ".join(str(CPython.parse(tag)) for tag in tags)


def of_variant(facts: Facts, edit: Edit, changes: Changes | None, before: Variant | None) -> str:
    """The section on a minor: its facts and their sources, what is new in it, its file's diff, torch's changes."""
    return _render(
        "evidence-variant.md.j2",
        facts=facts,
        edit=edit,
        before=before,
        news=against(facts, before) if before else [],
        changes=Markdown(changes.markdown().rstrip("\n")) if changes else "",
    )


def of_build(results: Sequence[JobResult]) -> str:
    """The section on the builds: what was built, and the findings of the audit and the smoke test."""
    rows = audit_verdicts(results)
    ranges, verdicts = output.cells(rows) if rows else ([], {})
    facts = {"SmokeFacts": SmokeFacts, "CoreSmokeFacts": CoreSmokeFacts}
    return _render("evidence-build.md.j2", jobs=results, ranges=ranges, verdicts=verdicts, **facts)


def _render(template: str, **names: object) -> str:
    environment = markdown_environment(DATA)
    environment.filters.update(
        size=size_text, text=lambda value: ", ".join(value) if isinstance(value, tuple) else str(value)
    )
    return environment.get_template(template).render(**names)
