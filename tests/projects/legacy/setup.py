"""An extension as many were written before pyproject.toml: setup.py imports torch, and calls CMake by itself."""

import subprocess
from pathlib import Path

import torch
from setuptools import find_packages, setup
from torch.utils.cpp_extension import BuildExtension, CppExtension

__version__ = "1.2.3"
HERE = Path(__file__).resolve().parent


class Build(BuildExtension):
    def run(self):
        super().run()
        folder = HERE / "build" / "cmake"
        places = [f"-DCMAKE_INSTALL_PREFIX={Path(self.build_lib, 'legacy').resolve()}",
                  f"-DCMAKE_PREFIX_PATH={torch.utils.cmake_prefix_path}"]  # fmt: skip
        subprocess.check_call(["cmake", "-S", HERE / "lib", "-B", folder, *places])
        subprocess.check_call(["cmake", "--build", folder, "--target", "install"])


setup(
    name="legacy_ext",
    version=__version__,
    description="What only setup.py says",
    author="Somebody",
    url="https://example.org/legacy",
    keywords=["torch", "legacy"],
    python_requires=">=3.8",
    install_requires=["numpy"],
    extras_require={"test": ["pytest"], "all": ["legacy_ext[test]", "torch>=2.0"]},
    ext_modules=[CppExtension("legacy._C", ["csrc/ops.cpp"], extra_compile_args=["-O1"])],
    cmdclass={"build_ext": Build.with_options(no_python_abi_suffix=True)},
    packages=find_packages(),
)
