#include <Python.h>
#include <omp.h>
int (*volatile used)(void) = omp_get_max_threads;

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_core"};

PyMODINIT_FUNC PyInit__core(void) { return PyModule_Create(&module); }
