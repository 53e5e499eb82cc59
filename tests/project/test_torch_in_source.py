"""What a source shows of torch before anything is built: its C++ interface, the stable headers alone, or nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from torch_build_farm.project.torch_in_source import TorchInSource, sources_without_torch, torch_in_source

SETUP = "from setuptools import setup, Extension\nsetup(ext_modules=[Extension('demo._core', ['core.cpp'])])\n"


def tree(folder: Path, files: dict[str, str]) -> tuple[Path, list[str]]:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder, list(files)


@pytest.mark.parametrize(
    "files",
    [
        {"core.cpp": "#include <torch/extension.h>\n"},
        {"src/kernel.cu": '#  include "ATen/ATen.h"\n'},
        {"core.hpp": "#include <c10/core/Device.h>\n"},
        {"core.cpp": "#include <Python.h>\n", "CMakeLists.txt": "find_package(Torch REQUIRED)\n"},
        {"core.c": "", "setup.py": "from torch.utils.cpp_extension import CppExtension\n"},
        {"core.pyx": 'cdef extern from "torch/torch.h":\n    pass\n'},
        {"core.cpp": "", "meson.build": "torch = dependency('torch')\n"},
        {"core.cpp": "#include <torch/csrc/stable/library.h>\n#include <torch/library.h>\n"},
    ],
)
def test_the_cxx_interface(tmp_path: Path, files: dict[str, str]) -> None:
    assert torch_in_source(*tree(tmp_path, files)) is TorchInSource.CXX


@pytest.mark.parametrize(
    "build_file",
    [
        {"setup.py": "from torch.utils.cpp_extension import CppExtension\n"},
        {"CMakeLists.txt": "find_package(Torch REQUIRED)\n"},
        {},
    ],
)
def test_the_stable_headers_alone(tmp_path: Path, build_file: dict[str, str]) -> None:
    """Their users build with torch's own helpers, as everybody does: it is the includes that count."""
    files = {
        "core.cpp": "#include <torch/csrc/stable/tensor.h>\n#include <torch/headeronly/core/ScalarType.h>\n",
        "shim.cpp": "#include <torch/csrc/inductor/aoti_torch/c/shim.h>\n",
    }
    assert torch_in_source(*tree(tmp_path, files | build_file)) is TorchInSource.STABLE


@pytest.mark.parametrize(
    "files",
    [
        {"core.cpp": "#include <Python.h>\n#include <vector>\n", "setup.py": SETUP},
        {"core.pyx": "def f(): return 1\n", "pyproject.toml": '[build-system]\nrequires = ["cython"]\n'},
        # Python code that uses torch runs with any torch.
        {"core.cpp": "", "demo/__init__.py": "import torch\n", "demo/ops.py": "torch.utils.cpp_extension\n"},
        {"core.cpp": '#include "my_torch/torch_like.h"\n// #include <torch/extension.h>\n', "setup.py": SETUP},
        {"README.md": "#include <torch/extension.h>\n", "core.cpp": ""},
    ],
)
def test_nothing(tmp_path: Path, files: dict[str, str]) -> None:
    assert torch_in_source(*tree(tmp_path, files)) is TorchInSource.NOTHING


@pytest.mark.parametrize("files", [{}, {"demo/__init__.py": "import torch\n"}])
def test_a_source_without_compiled_code_shows_nothing_either_way(tmp_path: Path, files: dict[str, str]) -> None:
    """Its code may come from elsewhere: FetchContent, a submodule, a generator."""
    assert torch_in_source(*tree(tmp_path, files)) is None


def test_sources_without_torch(tmp_path: Path) -> None:
    files = {
        "src/free.cpp": '#include <vector>\n#include "plain.h"\n',
        "src/free.c": "int answer(void);\n",
        "src/plain.h": "#pragma once\n",
        "src/direct.cpp": "#include <torch/extension.h>\n",
        "src/through.cc": '#include "../include/outer.h"\n',
        "include/outer.h": '#include "inner.h"\n',
        "include/inner.h": "#include <c10/core/Device.h>\n#include <outer.h>\n",
        "src/kernel.cu": "",
        "CMakeLists.txt": "find_package(Torch REQUIRED)\n",
    }
    assert sources_without_torch(*tree(tmp_path, files)) == 2


def test_sources_without_torch_bound_what_is_read_of_a_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    others = "".join(f"#include <other{number}.h>\n" for number in range(1000))
    files = {
        "inner.h": "#include <torch/extension.h>\n",
        "read.cpp": others.partition("\n")[2] + '#include "inner.h"\n',
        "too-many.cpp": others + '#include "inner.h"\n',
        "last.cpp": "\n",
    }
    assert sources_without_torch(*tree(tmp_path, files)) == 2
    all_but_last = sum(map(len, files.values())) - 1
    monkeypatch.setattr("torch_build_farm.project.torch_in_source._MOST_TEXT", all_but_last)
    assert sources_without_torch(*tree(tmp_path, files)) == 1
