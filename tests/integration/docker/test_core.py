"""A core and its add-on in containers: two minors, tested together."""

from collections.abc import Callable

import pytest

from tests.conftest import Farm
from tests.integration.docker.conftest import Docker
from tests.integration.test_core import RUN, details, ran

pytestmark = pytest.mark.torch


def test_a_core_and_its_add_on(make_farm: Callable[..., Farm], docker: Docker) -> None:
    assert docker.answers()
    farm = make_farm("addon")
    farm.engine = "docker"
    answer = farm(*RUN)
    assert answer.code == 0, answer.err
    assert list(ran(answer)) == ["acme-core", "acme-gpu-torch28", "acme-gpu-torch29"]
    assert details(answer, "acme-core", "build")["built-with"] == "no torch"
    assert " torch==" not in details(answer, "acme-core", "build")["environment"]
    (core,) = farm.work.glob("dist/acme_core-*.whl")
    for variant in ("acme-gpu-torch28", "acme-gpu-torch29"):
        assert details(answer, variant, "smoke")["core"] == core.name
        assert details(answer, variant, "smoke")["script"] == "the solver takes the core's bodies"
    assert set(map(tuple, ran(farm(*RUN)).values())) == {()}
