"""The expressions of the tests' own runner of workflows: GitHub's rules, and nothing that is passed over."""

import pytest

from tests.integration.expressions import Lenient, Unknown, condition, fill

CONTEXTS = {
    "github": {"event_name": "push"},
    "inputs": {"publish": None, "torch": ""},
    "needs": {"plan": {"result": "success", "outputs": Lenient(matrix='{"include": [{"a": 1}]}')}},
}
ENDED = {"success": lambda: False, "failure": lambda: True}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("${{ inputs.torch || 'all' }}", "all"),
        ("a ${{ inputs.torch }}b", "a b"),
        ("${{ fromJSON(needs.plan.outputs.matrix) }}", {"include": [{"a": 1}]}),
        ("${{ inputs.publish && inputs.publish != 'no' }}", None),
        ("${{ inputs.publish == '' }}", True),
        ("${{ github.event_name == 'PUSH' && !(1 == 2) }}", True),
        ("${{ toJSON(needs.plan.outputs) }}", '{\n  "matrix": "{\\"include\\": [{\\"a\\": 1}]}"\n}'),
        ("${{ needs.plan.outputs.none.more || 'nothing' }}", "nothing"),
        ("${{ 'it''s' }} ${{ needs.plan.outputs.none }}", "it's "),
    ],
)
def test_values(text: str, value: object) -> None:
    assert fill(text, CONTEXTS) == value


@pytest.mark.parametrize(
    "text", ["github.actor", "hashFiles(github)", "needs.other.result", "1 +", "matrix.a", "(1 == 1", "github[0]"]
)
def test_what_it_does_not_know_is_an_error(text: str) -> None:
    with pytest.raises(Unknown):
        fill("${{ " + text + " }}", CONTEXTS)


def test_a_condition_implies_success() -> None:
    assert not condition("github.event_name == 'push'", CONTEXTS, ENDED)
    assert condition("failure() && github.event_name == 'push'", CONTEXTS, ENDED)
    assert not condition(None, CONTEXTS, ENDED)
