from setuptools import Extension, setup

setup(
    packages=["acme"],
    scripts=["bin/acme-tool"],
    ext_modules=[Extension("acme._core", ["core.c"])],
)
