"""An extension of C alone, whose setup.py decides what is built: tests put their own lines where it says so."""

import os

from setuptools import Extension, setup

# imports of a test

os.environ["LDSHARED"] = "cc -shared"  # without the run path that some CPythons give to all that is linked for them
extension = Extension("scripted._core", ["core.c"])
# settings of a test
setup(name="scripted", version="1.0", packages=["scripted"], ext_modules=[extension])
