"""Where a release goes."""

import pytest
from twine.utils import TEST_REPOSITORY

from torch_build_farm.core.errors import PublishError
from torch_build_farm.publish.upload import Target


def test_the_two_well_known_ones() -> None:
    assert (Target.of("pypi").words, Target.of("pypi").index.url) == (("--repository", "pypi"), "")
    test = Target.of("testpypi")
    assert test.words == ("--repository", "testpypi")
    assert test.index.url == TEST_REPOSITORY.replace("/legacy/", "/simple/")


def test_a_url_and_its_secrets() -> None:
    target = Target.of("https://me:p%40ss@index.example/root/dev/")
    assert target.words == ("--repository-url", "https://index.example/root/dev/")
    assert dict(target.secrets) == {"TWINE_USERNAME": "me", "TWINE_PASSWORD": "p@ss"}
    assert target.name == "https://index.example/root/dev/"
    assert target.index.url == "https://me:p%40ss@index.example/root/dev/simple/"
    assert Target.of("https://index.example/legacy/").index.url == "https://index.example/simple/"
    assert Target.of("https://index.example/up", "https://index.example/+simple/").index.url == "https://index.example/+simple/"  # fmt: skip


@pytest.mark.parametrize("text", ["pipy", "ftp://index.example", "https://"])
def test_what_is_no_index(text: str) -> None:
    with pytest.raises(PublishError, match="is not a package index"):
        Target.of(text)
