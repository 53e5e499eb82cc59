from setuptools import Extension, setup

setup(
    name="acme",
    version="1.2",
    packages=["acme"],
    python_requires=">=3.9",
    install_requires=["torch>=2.4", "packaging"],
    ext_modules=[Extension("acme._core", ["core.c"])],
)
