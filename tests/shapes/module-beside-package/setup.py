from setuptools import Extension, setup

setup(
    packages=["acme"],
    ext_modules=[Extension("acme_core", ["core.c"])],
)
