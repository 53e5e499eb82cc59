"""The repository's own files agree with each other."""

import re

from tests.conftest import CHECKOUT
from torch_build_farm.cli.ci import pins

WORKFLOW = CHECKOUT / ".github" / "workflows" / "ci.yml"


def test_our_own_workflow_uses_the_pinned_actions() -> None:
    """As rendered workflows do: `data/actions.toml` names the commits, in one place for both."""
    uses = re.findall(r"uses: (.+)", WORKFLOW.read_text())
    assert len(uses) > 3
    assert set(uses) <= {str(pin) for pin in pins().values()}
