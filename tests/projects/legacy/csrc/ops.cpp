#include <torch/library.h>

#include <ATen/ops/mul.h>

TORCH_LIBRARY(legacy, m) {
  m.def("twice(Tensor x) -> Tensor", [](const at::Tensor& x) { return at::mul(x, 2); });
}
