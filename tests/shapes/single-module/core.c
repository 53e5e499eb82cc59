#include <Python.h>

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "acme"};

PyMODINIT_FUNC PyInit_acme(void) { return PyModule_Create(&module); }
