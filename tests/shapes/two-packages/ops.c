#include <Python.h>

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_ops"};

PyMODINIT_FUNC PyInit__ops(void) { return PyModule_Create(&module); }
