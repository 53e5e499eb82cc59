from Cython.Build import cythonize
from setuptools import setup

setup(
    packages=["acme"],
    ext_modules=[*cythonize("acme/_core.pyx")],
)
