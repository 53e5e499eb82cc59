#include <torch/csrc/utils/pybind.h>

#include <ATen/ATen.h>

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  m.def("twice", [](const at::Tensor& tensor) { return tensor * 2; });
}
