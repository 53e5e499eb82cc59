#include <Python.h>
int base(void);
int (*volatile used)(void) = base;

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_one"};

PyMODINIT_FUNC PyInit__one(void) { return PyModule_Create(&module); }
