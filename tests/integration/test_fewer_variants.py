"""A project without torch's C++ is told so before it is built for the second torch."""

from __future__ import annotations

from tests.conftest import Farm


def test_an_extension_without_torch(tiny: Farm) -> None:
    plan = tiny("plan", "--torch", "2.8", "2.9")
    assert "perhaps no variants are needed: the source includes no header of torch" in plan.out
    assert "variants are needed" not in tiny("plan", "--torch", "2.8").out, "one variant is no question"

    built = tiny("build", "--torch", "2.8", "2.9", "--jobs", "1")
    assert built.code == 0, built.err
    assert built.out.index("perhaps no variants are needed") < built.out.index(": build ...")
    verdict = "the wheel uses nothing of torch's C++: no variant for each torch is needed"
    assert built.out.count(verdict) == 1
    assert built.out.index(verdict) < built.out.rindex(": build done"), "before the second build ends"
    assert "the wheels use nothing of torch's C++: no variant for each torch is needed" in built.out

    # The audits were kept, and are no news.
    again = tiny("build", "--torch", "2.8", "2.9")
    assert verdict not in again.out
    assert "the wheels use nothing of torch's C++" in again.out


def test_one_torch_needs_its_variant_whatever_it_uses(tiny: Farm) -> None:
    built = tiny("build", "--torch", "2.8", "--json")
    assert built.code == 0, built.err
    assert "the wheel uses" not in built.err
    (job,) = built.document["jobs"]
    (audit,) = [stage for stage in job["stages"] if stage["stage"] == "audit"]
    assert audit["details"]["fewer-variants"] == "nothing of torch's C++: no variant for each torch is needed"


def test_a_source_that_includes_torch_is_not_told_so(tiny: Farm) -> None:
    tiny.edit("core.cpp", "#include", "#include <torch/extension.h>\n#include")
    assert "variants are needed" not in tiny("plan", "--torch", "2.8", "2.9").out
    source = (tiny.project / "core.cpp").read_text().replace("torch/extension.h", "torch/csrc/stable/library.h")
    (tiny.project / "core.cpp").write_text(source)
    assert "perhaps fewer variants are needed" in tiny("plan", "--torch", "2.8", "2.9").out
    tiny.edit("pyproject.toml", "[tool.torch-build-farm]", '[tool.torch-build-farm]\nstable-abi = "2.10"')
    assert "variants are needed" not in tiny("plan", "--torch", "2.9", "2.10").out, "it has the setting already"
