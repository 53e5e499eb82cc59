#include <Python.h>

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "acme_core"};

PyMODINIT_FUNC PyInit_acme_core(void) { return PyModule_Create(&module); }
