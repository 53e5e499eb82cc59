from Cython.Build import cythonize
from setuptools import setup
from torch.utils.cpp_extension import BuildExtension, CppExtension

setup(
    packages=["acme"],
    ext_modules=cythonize([CppExtension("acme._core", ["acme/_core.pyx"])], language_level=3),
    cmdclass={"build_ext": BuildExtension},
)
