#pragma once

#include <tuple>

#include <ATen/core/Tensor.h>

// The CUDA kernels of linear blend skinning (skinning.cu), which know nothing of autograd. All tensors lie on one GPU and
// have one dtype, float32 or float64, but indices, which is int64 and whose values are joints.
namespace momentum {

// skin [B, J, 3, 4], vertices [V, 3], indices [V, K], weights [V, K] -> [B, V, 3].
at::Tensor blend_on_cuda(
    const at::Tensor& skin, const at::Tensor& vertices, const at::Tensor& indices, const at::Tensor& weights);

// Both take the gradient [B, V, 3] of what blend_on_cuda returns. That of skin is a sum over the vertices of a joint, which
// are added in no fixed order.
at::Tensor skin_gradient_on_cuda(
    const at::Tensor& gradient,
    const at::Tensor& skin,
    const at::Tensor& vertices,
    const at::Tensor& indices,
    const at::Tensor& weights);

// The gradients of vertices and of weights.
std::tuple<at::Tensor, at::Tensor> vertex_and_weight_gradient_on_cuda(
    const at::Tensor& gradient,
    const at::Tensor& skin,
    const at::Tensor& vertices,
    const at::Tensor& indices,
    const at::Tensor& weights);

} // namespace momentum
