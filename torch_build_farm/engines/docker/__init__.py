"""The Docker engine: wheels built by cibuildwheel and tested in containers.

The docker SDK looks after the engine, images and clean-up; the docker command, under the farm's runner, starts
containers, so that logs are written and runs are cancelled in one way only.

| module | what it does |
|---|---|
| client | finds the engine, and the docker command for it |
| pinned | which images and build identifiers cibuildwheel has for a platform |
| images, contents | base images, and the farm's layer over them; what is in a base image |
| image_tools | the farm's uv, CMake and ninja for an image's platform |
| containers | confinement, labels, events, removal |
| store_access | how containers reach the store |
| session | what one run keeps of the engine |
| site, build | a container for a job's commands; one build in a container |
| engine | the interface that the pipeline uses |
"""
