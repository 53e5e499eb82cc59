#include <Python.h>

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_core"};

PyMODINIT_FUNC PyInit__core(void) { return PyModule_Create(&module); }
