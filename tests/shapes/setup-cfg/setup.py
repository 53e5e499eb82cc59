from setuptools import Extension, setup

setup(
    ext_modules=[Extension("acme._core", ["src/core.c"])],
)
