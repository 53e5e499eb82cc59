"""A wheel of the real index: what is read of its ends is what all of it says."""

from io import BytesIO

import pytest
from elftools.elf.dynamic import DynamicSegment
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from torch_build_farm.core.package_index import PackageIndex
from torch_build_farm.wheels.elf.remote_exports import exported, torch_libraries

pytestmark = [pytest.mark.torch, pytest.mark.network]

WHEEL = "torch-2.9.1-cp312-cp312-manylinux_2_28_x86_64.whl"


def whole(content: bytes) -> tuple[set[str], list[str]]:
    """Exported names and DT_NEEDED, as pyelftools reads them from the sections."""
    library = ELFFile(BytesIO(content))
    (dynamic,) = (segment for segment in library.iter_segments() if isinstance(segment, DynamicSegment))
    table = library.get_section_by_name(".dynsym")
    assert isinstance(table, SymbolTableSection)
    names = {
        symbol.name
        for symbol in table.iter_symbols()
        if symbol["st_shndx"] != "SHN_UNDEF"
        and symbol["st_info"]["bind"] != "STB_LOCAL"
        and symbol["st_other"]["visibility"] in ("STV_DEFAULT", "STV_PROTECTED")
    }
    # pyelftools sets `needed` on tags of this kind alone, which its types cannot say.
    return names, [getattr(tag, "needed") for tag in dynamic.iter_tags("DT_NEEDED")]  # noqa: B009


def test_names_by_range_are_those_of_the_whole_library() -> None:
    index = PackageIndex.configured()
    (file,) = (file for file in index.files("torch") if file.filename == WHEEL)
    with index.open_wheel(file) as wheel:
        libraries = torch_libraries(wheel)
        assert wheel.fetched < 25_000_000
        assert len(libraries["torch/lib/libtorch_cpu.so"].names) == 77673
        assert len(libraries["torch/lib/libtorch_cuda.so"].names) == 31395
        assert set(torch_libraries(wheel, of_python=True)) == {
            "torch/lib/libtorch_python.so", "torch/_C.cpython-312-x86_64-linux-gnu.so"
        }  # fmt: skip
        for path in ("torch/lib/libc10.so", "torch/lib/libtorch_python.so"):
            names, needed = whole(wheel.read(path))
            assert libraries[path].names == names
            assert list(libraries[path].needed) == needed
            assert exported(wheel, path) == libraries[path]
        assert "_ZNK3c106SymInt6sym_neERKS0_" not in libraries["torch/lib/libc10.so"].names
