"""What there is to say for a new variant, as Markdown for a pull request."""

from __future__ import annotations

from collections.abc import Sequence

from torch_build_farm.audit import output
from torch_build_farm.audit.changes import Changes
from torch_build_farm.core.files import size_text
from torch_build_farm.core.versions import CPython
from torch_build_farm.pipeline.results import JobResult
from torch_build_farm.project.variant import Variant
from torch_build_farm.releases.facts import Facts
from torch_build_farm.releases.variant_file import Edit


def against(facts: Facts, before: Variant) -> list[str]:
    """What a minor asks for that the one before did not, in words."""
    found = []
    cuda, pythons = str(facts["cuda"].value), facts["cpython"].value
    if cuda != before.cuda:
        major = cuda.partition(".")[0] != before.cuda_major
        found.append(f"CUDA {before.cuda} -> {cuda}{': another major, so another toolkit' if major else ''}")
    had = [one.tag for one in before.cpython]
    assert isinstance(pythons, tuple)
    for words, tags in (
        ("no CPython {} any more", [tag for tag in had if tag not in pythons]),
        ("CPython {} is new", [tag for tag in pythons if tag not in had]),
    ):
        if tags:
            found.append(words.format(", ".join(str(CPython.parse(tag)) for tag in tags)))
    told = (("cxx-standard", before.cxx_standard, "C++"), ("gcc", before.gcc, "GCC"), ("image", before.image, "image"))
    found += [f"{words} {old} -> {facts[key].value}" for key, old, words in told if facts[key].value != old]
    return found


def of_variant(facts: Facts, edit: Edit, changes: Changes | None, before: Variant | None) -> str:
    """A minor's facts with where they were read, what is new in it, what of its file changes, what changed in torch."""
    lines = [f"## torch {facts.minor}", "", f"Read from `{facts.wheel}` on the package index, by range requests.", ""]
    lines += ["| key | value | read from |", "|---|---|---|"]
    for key, fact in facts.facts.items():
        value = ", ".join(fact.value) if isinstance(fact.value, tuple) else str(fact.value)
        lines.append(f"| {key} | {value or '-'} | {fact.source or '-'} |")
    if before and (told := against(facts, before)):
        lines += ["", f"Beside torch {before.torch}:", "", *(f"- {one}" for one in told)]
    if edit.before:
        lines += ["", "```diff", edit.diff.rstrip("\n"), "```"] if edit.diff else ["", "The file is as it was."]
    lines += ["", *(f"- {one}" for one in edit.kept)] if edit.kept else []
    if changes:
        lines += ["", changes.markdown().rstrip("\n")]
    return "\n".join(lines) + "\n"


def of_build(results: Sequence[JobResult]) -> str:
    """What was built, what the audit and the smoke test say of it."""
    lines = ["## Built", "", "| job | | wheel | tag | size | SHA-256 |", "|---|---|---|---|---|---|"]
    for one in results:
        how = "failed" if one.error else "kept" if one.kept else f"{one.seconds:.0f} s"
        made = one.wheel
        name, size, digest = (made.path.split("/")[-1], size_text(made.size), made.sha256) if made else ("-", "-", "-")
        lines.append(f"| {one.job.id} | {how} | {name} | {one.tag or '-'} | {size} | {digest} |")
    audited = {one.job.id: one.detail("audit", "releases") for one in results}
    rows = {job: dict(pair.split("=") for pair in text.split()) for job, text in audited.items() if text}
    if rows:
        heads, body = output.cells(rows)
        lines += ["", "## Audit", "", f"| job | {' | '.join(f'torch {head}' for head in heads)} |"]
        lines += [f"|---|{'---|' * len(heads)}", *(f"| {job} | {' | '.join(row)} |" for job, row in body.items())]
    lines += ["", "## Smoke test", ""]
    for one in results:
        said = one.detail("smoke", "torch")
        where = f"{said} on {one.detail('smoke', 'devices')}"
        script = f"; {one.detail('smoke', 'script')}" if one.detail("smoke", "script") else ""
        refuses = f"; refuses {one.detail('smoke', 'refuses')}" if one.detail("smoke", "refuses") else ""
        lines.append(
            f"- {one.job.id}: torch {where}; imports {one.detail('smoke', 'imports')}{refuses}{script}"
            if said
            else f"- {one.job.id}: not run"
        )
    for one in (one for one in results if one.error):
        lines += ["", f"### {one.job.id} failed", "", "```", str(one.error), "```"]
    return "\n".join(lines) + "\n"
