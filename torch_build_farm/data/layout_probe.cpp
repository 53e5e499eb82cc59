// What extensions include of torch, for its debug information alone: releases/type_layouts.py reads the layouts from it.
// A header that a release does not have is left out, and so are its types.
#include <Python.h>
#include <ATen/Tensor.h>
#include <ATen/TensorIterator.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/ivalue.h>
#include <ATen/core/op_registration/op_registration.h>
#include <ATen/record_function.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/InferenceMode.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/saved_variable.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/utils/pybind.h>
#include <torch/library.h>
#if __has_include(<c10/core/impl/PyObjectSlot.h>)
#include <c10/core/impl/PyObjectSlot.h>
#endif
