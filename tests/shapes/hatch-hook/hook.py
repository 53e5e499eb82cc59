import runpy

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class Hook(BuildHookInterface):
    def initialize(self, version, build_data):
        runpy.run_path("compile.py")
        build_data.update(pure_python=False, infer_tag=True, artifacts=["acme/*.so"])
