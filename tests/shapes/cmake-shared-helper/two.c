#include <Python.h>
int base(void);
int (*volatile used)(void) = base;

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_two"};

PyMODINIT_FUNC PyInit__two(void) { return PyModule_Create(&module); }
