#include <Python.h>
void add(float *a, const float *b) { for (int i = 0; i < 4096; ++i) a[i] += b[i] * 2.0f; }
void (*volatile used)(float *, const float *) = add;

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_core"};

PyMODINIT_FUNC PyInit__core(void) { return PyModule_Create(&module); }
