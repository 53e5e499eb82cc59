#include <pybind11/pybind11.h>

#include "body.h"

PYBIND11_MODULE(_core, module) {
  pybind11::class_<acme::Body>(module, "Body")
      .def(pybind11::init<double>())
      .def_readwrite("mass", &acme::Body::mass);
}
