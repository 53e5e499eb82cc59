"""The Docker engine: wheels built by cibuildwheel and tested in containers.

The docker SDK looks after the engine, images and clean-up; the docker command, under the farm's runner, starts
containers, so that logs are written and runs are cancelled in one way only.

| module | what it does |
|---|---|
| client | finds the engine, and the docker command for it |
| images | base images, what is in them, the farm's layer over them |
| containers | confinement, labels, events, removal |
| store_access | how containers reach the store |
| session | what one run keeps of the engine |
| site, build | a container for a job's commands; one build in a container |
| engine | the interface that the pipeline uses |
"""
