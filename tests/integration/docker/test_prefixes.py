"""What `prepare` installs lies in a layer of the image."""

from pathlib import Path

from tests.conftest import Farm
from tests.integration.test_prefixes import BUILD, PREPARE, check_grafted, depend_on_a_library


def test_prepared_once_in_the_image(contained: Farm) -> None:
    depend_on_a_library(contained, PREPARE)
    first = contained(*BUILD)
    assert first.code == 0, first.err
    assert first.err.count("building the image ") == 1
    check_grafted(contained)
    again = contained(*BUILD, "--force")
    assert again.code == 0, again.err
    assert "building the image " not in again.err

    # The log has the output of a command that fails.
    contained.edit("pyproject.toml", "prepare = [", "prepare = ['echo first; no-such-command', ")
    answer = contained(*BUILD)
    assert (answer.code, answer.document["error"]["kind"]) == (19, "ImageError"), answer.err
    assert "no-such-command: not found" in Path(answer.document["error"]["where"]).read_text()
