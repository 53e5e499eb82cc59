# distutils: language = c++
cdef extern from "ATen/Parallel.h" namespace "at":
    int get_num_threads()


def threads():
    return get_num_threads()
