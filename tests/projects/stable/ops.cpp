#ifdef TORCH_STABLE_ONLY

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

using torch::stable::Tensor;

Tensor twice(const Tensor& tensor) {
  return torch::stable::subtract(tensor, tensor, -1.0);
}

STABLE_TORCH_LIBRARY(steady, library) {
  library.def("twice(Tensor tensor) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(steady, CompositeExplicitAutograd, library) {
  library.impl("twice", TORCH_BOX(&twice));
}

#else

#include <ATen/ATen.h>
#include <torch/library.h>

at::Tensor twice(const at::Tensor& tensor) {
  return tensor - tensor.mul(-1);
}

TORCH_LIBRARY(steady, library) {
  library.def("twice(Tensor tensor) -> Tensor");
}

TORCH_LIBRARY_IMPL(steady, CompositeExplicitAutograd, library) {
  library.impl("twice", twice);
}

#endif
