from setuptools import Extension, setup

setup(
    packages=[],
    ext_modules=[Extension("acme", ["core.c"])],
)
