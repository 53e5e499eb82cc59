#include <Python.h>

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_acme"};

PyMODINIT_FUNC PyInit__acme(void) { return PyModule_Create(&module); }
