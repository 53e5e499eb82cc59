#include "scale.h"

#include <cuda_runtime_api.h>
#include <torch/extension.h>

namespace {

int runtime_version() {
  int version = 0;
  TORCH_CHECK(cudaRuntimeGetVersion(&version) == cudaSuccess, "cudaRuntimeGetVersion failed");
  return version;
}

}  // namespace

PYBIND11_MODULE(_C, module) {
  module.def("scale", &scale_cuda);
  module.def("runtime_version", &runtime_version);
  module.attr("compiled_with") = CUDART_VERSION;
}
