#include <Python.h>

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_C"};

PyMODINIT_FUNC PyInit__C(void) { return PyModule_Create(&module); }
