"""A job's source tree on disk, from the project's own and templates/*.j2."""

from __future__ import annotations

import hashlib
from typing import Any

from torch_build_farm.core.files import clear
from torch_build_farm.pipeline import rendered_tree
from torch_build_farm.pipeline.facts import RenderFacts
from torch_build_farm.pipeline.stage import Outcome, Stage, Step


def _inputs(step: Step) -> dict[str, Any]:
    # The rendered tree itself: a changed setting, variant or template counts where it changes the tree.
    tree = step.context.tree(step.job)
    return {
        "source": tree.content,
        "rendered": dict(tree.rendered),
        "tools": {path: hashlib.sha256(content).hexdigest() for path, content in tree.tools.items()},
        "epoch": step.context.epoch,
    }


def _work(step: Step) -> Outcome:
    tree, epoch = step.context.tree(step.job), step.context.epoch
    folder = step.folder / "source"
    clear(folder)
    rendered_tree.write(tree, folder, epoch)
    facts = RenderFacts(version=step.job.version, source=tree.source.origin.identity, content=tree.content, epoch=epoch)
    return Outcome((folder,), facts)


RENDER = Stage("render", _inputs, _work)
