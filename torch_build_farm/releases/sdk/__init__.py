"""torch's SDK: of a torch release what compiling and linking take, as a wheel of some 14 MB in place of 4 GB.

stub      a library's exported names as a library without code, for the linker
members   headers and CMake files out of the remote wheel, each proven by its RECORD
wheel     both together, as an installable torch that says one sentence when it is run
shelf     the SDKs of the store
commands  `sdk`
"""
