"""The Docker engine: wheels built by cibuildwheel and tested in containers.

The docker SDK looks after the engine, images and clean-up; the docker command, under the farm's runner, starts
containers, so that whatever is written to a job's log, and whatever is cancelled, goes one way.
"""

from torch_build_farm.engines.docker.engine import DockerEngine, open_engine

__all__ = ["DockerEngine", "open_engine"]
