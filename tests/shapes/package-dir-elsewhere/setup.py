from setuptools import Extension, setup

setup(
    package_dir={"acme": "python/lib", "acme.sub": "python/other"},
    packages=["acme", "acme.sub"],
    ext_package="acme",
    ext_modules=[Extension("_core", ["core.c"])],
)
