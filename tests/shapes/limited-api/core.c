#define Py_LIMITED_API 0x03090000
#include <Python.h>
#include <stdlib.h>
void *(*volatile used)(size_t) = malloc;  // auditwheel tells the C library by what is used of it

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_core"};

PyMODINIT_FUNC PyInit__core(void) { return PyModule_Create(&module); }
