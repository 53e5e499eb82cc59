from setuptools import Extension, setup

setup(
    packages=["acme"],
    ext_modules=[Extension("acme._core", ["core.c"], py_limited_api=True)],
)
