#include "scale.h"

#include <ATen/cuda/CUDAContext.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>

namespace {

__global__ void scale_kernel(const float* in, float* out, float factor, int64_t n) {
  const int64_t i = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x;
  if (i < n) {
    out[i] = factor * in[i];
  }
}

}  // namespace

at::Tensor scale_cuda(const at::Tensor& input, double factor) {
  TORCH_CHECK(input.is_cuda() && input.scalar_type() == at::kFloat, "a float32 CUDA tensor is wanted");
  const c10::cuda::CUDAGuard guard(input.device());
  const at::Tensor in = input.contiguous();
  at::Tensor out = at::empty_like(in);
  const int64_t n = in.numel();
  if (n > 0) {
    constexpr int threads = 256;
    const auto blocks = static_cast<unsigned>((n + threads - 1) / threads);
    scale_kernel<<<blocks, threads, 0, at::cuda::getCurrentCUDAStream()>>>(
        in.data_ptr<float>(), out.data_ptr<float>(), static_cast<float>(factor), n);
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  }
  return out;
}
