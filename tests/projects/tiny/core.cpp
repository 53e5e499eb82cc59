#include <Python.h>

#include <cstdlib>

static PyObject* answer(PyObject*, PyObject*) {
  const char* name = std::getenv("TINY"); // a call into the C library, without which auditwheel knows no platform
  return PyLong_FromLong(name ? 0 : 42);
}

static PyMethodDef methods[] = {{"answer", answer, METH_NOARGS, nullptr}, {nullptr, nullptr, 0, nullptr}};
static PyModuleDef module = {PyModuleDef_HEAD_INIT, "_core", nullptr, -1, methods};

PyMODINIT_FUNC PyInit__core() {
  return PyModule_Create(&module);
}
