#include <Python.h>
int (*volatile used)(PyObject *, Py_buffer *, int) = PyObject_GetBuffer;
#include <stdlib.h>
void *(*volatile allocate)(size_t) = malloc;  // auditwheel tells the C library by what is allocate of it

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_core"};

PyMODINIT_FUNC PyInit__core(void) { return PyModule_Create(&module); }
