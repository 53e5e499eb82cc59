#include <Python.h>

#include <stdlib.h>

#ifndef ANSWER
#define ANSWER 42
#endif

/* A call into the C library, without which auditwheel knows no platform. */
static PyObject* answer(PyObject* module, PyObject* unused) { return PyLong_FromLong(getenv("SCRIPTED") ? 0 : ANSWER); }

static PyMethodDef methods[] = {{"answer", answer, METH_NOARGS, NULL}, {NULL, NULL, 0, NULL}};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_core", NULL, -1, methods};

PyMODINIT_FUNC PyInit__core(void) { return PyModule_Create(&module); }
