"""docs/reference/commands.md, from the farm's own command line: python ci/docs_commands.py [--check].

Options and their help come from argparse. NOTES holds what a line of help has no room for.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from torch_build_farm.cli import main as cli

PAGE = Path(__file__).resolve().parent.parent / "docs" / "reference" / "commands.md"
_COMMON = ("--project", "--work", "--json")

_INTRODUCTION = """# Commands

    python build_farm.py [COMMAND] [options]
    torch-build-farm [COMMAND] [options]

The first form serves the project beside `build_farm.py`, the second the one in the current folder; `--project` names
another. Without a command, all stages run: that is `run`. [Errors](errors.md) lists the exit codes.

`docs/schemas/answers/COMMAND.schema.json` is the JSON Schema of the document that `--json` prints;
`error.schema.json` is that of a command that fails.
"""

NOTES = {
    "run": """`--torch` decides which minors are built; without it, `torch` in the [settings](settings.md) does. By
default a job takes the running CPython, otherwise the newest that torch and machine have; free-threaded ones are
built only when named. Compilers are limited to what CPUs and memory allow, whatever `--jobs` says. `--engine auto`
takes Docker if an engine answers, and prints which engine it chose and why; `--base-image` replaces the image of every
variant.""",
    "plan": "`plan` builds nothing, but fetches a source that is not on this machine yet.",
    "render": "The trees are in `work/jobs/JOB/source`.",
    "build": """The wheels are in `work/dist`, repaired and audited. They are smoke-tested only with `--smoke full` or
`--smoke import`.""",
    "smoke": "`smoke` builds wheels that are missing.",
    "audit": "See [Audit a wheel](../how-to/audit-a-wheel.md) and [Audit verdicts](audit-verdicts.md).",
    "index": """`list` shows what the audit knows of torch's releases. `add` reads one more from the package index, for
further CPythons with `--python`. `learn` reads those that are not known yet. `make` makes the tables that the farm
ships; it is for the farm's maintainers.""",
    "discover": "The exit code is 28 if there is something to do. See [Add a torch release](../how-to/add-a-torch.md).",
    "add": "See [Add a torch release](../how-to/add-a-torch.md).",
    "sdk": "`--out` unpacks the SDK for `CMAKE_PREFIX_PATH`. See [torch's SDK](../explanation/sdk.md).",
    "meta": """The wheels are in `work/dist`, and `work/COMPATIBILITY.md` lists what they serve: the variants in
`work/dist` and those on the index. With `--offline` only those in `work/dist` count.""",
    "publish": """Without `--yes`, outside CI, only the plan is shown. `--names` refuses a distribution if another has
to go first, and skips the installation of what users get. `--no-check` skips it too: [`check`](#check) does it in
another job, which holds no credentials. See [Publish](../how-to/publish.md).""",
    "adopt": "See [Publish](../how-to/publish.md#whose-is-a-name).",
    "check": """What is installed is compared with `published.json`, beside the project's `pyproject.toml`. The package
is imported where it sees no credentials; if the machine cannot isolate it, `check` refuses to import while this process
has any.""",
    "pack": """`pack` prints the SHA-256 of the pack, and nothing else. It takes jobs that passed every stage: all in
the work folder, or those of `--only`. `--out` defaults to `work/packs/JOB.tar`. The same jobs give the same bytes. See
[Work folder and records](work-folder.md#packs).""",
    "accept": """`accept` compares each pack with its SHA-256 before it reads it, puts the wheels into `work/dist`,
and seals the records for this user. `--digests` takes an object such as `{"JOB": "SHA-256"}`, in GitHub's workflows
`toJSON(needs.wheel.outputs)`; a job without a value is left out. All packs are accepted, or none.""",
    "ci": "See [Build in continuous integration](../how-to/ci.md).",
    "init": "See [Build somebody else's extension](../how-to/somebody-elses-extension.md).",
    "verify": """`verify` builds in another folder and prints `identical` or what differs; then the exit code is 21. See
[Rebuild a wheel](../how-to/rebuild-a-wheel.md).""",
    "doctor": "The exit code is 8 if something needed is missing.",
    "clean": "`clean --store` also removes torch, the images and volumes of containers, and all caches.",
}


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _syntax(action: argparse.Action) -> str:
    """An option or argument as people type it: `--torch MINOR...`."""
    value = str(action.metavar or "")
    if action.choices is not None and not action.metavar:
        value = "{" + ",".join(map(str, action.choices)) + "}"
    if action.nargs in ("+", "*"):
        value += "..."
    if action.nargs in ("?", "*"):
        value = f"[{value}]"
    return " ".join(part for part in (", ".join(action.option_strings), value) if part)


def _table(actions: list[argparse.Action]) -> str:
    rows = [f"| `{_cell(_syntax(action))}` | {_cell(action.help or '')} |" for action in actions]
    return "\n".join(["| argument or option | meaning |", "|---|---|", *rows]) + "\n"


def page() -> str:
    """The whole page."""
    unknown = set(NOTES) - set(cli.COMMANDS)
    if unknown:
        raise SystemExit(f"NOTES has commands that do not exist: {', '.join(sorted(unknown))}")
    common: dict[str, argparse.Action] = {}
    sections = []
    for name, entry in cli.COMMANDS.items():
        parser = cli.command_parser(name)
        cli.load_command(name).configure_parser(parser)
        own = []
        for action in parser.arguments:
            if "--help" in action.option_strings or action.help == argparse.SUPPRESS:
                continue
            if set(action.option_strings) & set(_COMMON):
                common[action.option_strings[0]] = action
            else:
                own.append(action)
        parts = [f"## {name}\n", f"{entry.summary[:1].upper()}{entry.summary[1:]}.\n"]
        parts += [f"{NOTES[name]}\n"] if name in NOTES else []
        parts += [_table(own)] if own else []
        sections.append("\n".join(parts))
    shared = f"## Options of every command\n\n`init` takes none of them.\n\n{_table(list(common.values()))}"
    return "\n".join([_INTRODUCTION, shared, *sections])


def main() -> None:
    """Write the page, or with --check say whether it is current."""
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(page(), "utf-8")
    elif not PAGE.is_file() or PAGE.read_text("utf-8") != page():
        raise SystemExit(f"{PAGE.name} is not current: python ci/docs_commands.py writes it")


if __name__ == "__main__":
    main()
