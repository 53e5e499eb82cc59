from setuptools import Extension, setup

setup(
    py_modules=["acme"],
    ext_modules=[Extension("_acme", ["core.c"])],
)
