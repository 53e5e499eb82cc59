from setuptools import Extension, setup

setup(
    packages=["acme", "acme_ops"],
    ext_modules=[Extension("acme._core", ["core.c"]), Extension("acme_ops._ops", ["ops.c"])],
)
