"""What is asked of an index before torch is downloaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import CHECKOUT
from tests.family import make_wheel
from tests.index import Index
from torch_build_farm.core.errors import PackageIndexError
from torch_build_farm.core.machine import ARM64, X86_64, Machine
from torch_build_farm.core.process import Runner
from torch_build_farm.core.store import TorchStore
from torch_build_farm.core.versions import CPython, Minor
from torch_build_farm.engines import torch_downloads
from torch_build_farm.project.settings import load


@pytest.mark.parametrize("platform", [X86_64, ARM64], ids=str)
def test_an_index_has_torch_for_a_platform_whatever_glibc_it_needs(
    platform: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "index").mkdir()
    index = Index(tmp_path / "index")
    monkeypatch.setenv("UV_DEFAULT_INDEX", index.url)
    variants = {each: load(CHECKOUT, CHECKOUT).on(each).variants[Minor(2, 13)] for each in (X86_64, ARM64)}
    wheel = make_wheel(tmp_path, "torch", "2.13.0", {}, tag=f"cp311-cp311-manylinux_2_34_{platform.name}")
    index.add_wheel(wheel)
    store = TorchStore(tmp_path / "store", "")
    try:
        for each, variant in variants.items():
            if each == platform:
                torch_downloads.check_index(store, "2.13.0", CPython(3, 11), variant, Runner())
            else:
                with pytest.raises(PackageIndexError):
                    torch_downloads.check_index(store, "2.13.0", CPython(3, 11), variant, Runner())
    finally:
        index.close()
