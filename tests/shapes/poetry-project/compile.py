from setuptools import Distribution, Extension
from setuptools.command.build_ext import build_ext

command = build_ext(Distribution({"name": "acme", "ext_modules": [Extension("acme._core", ["core.c"])]}))
command.inplace = True
command.ensure_finalized()
command.run()
