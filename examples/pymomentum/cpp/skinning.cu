#include "skinning_cuda.h"

#include <algorithm>

#include <ATen/Dispatch.h>
#include <ATen/cuda/Atomic.cuh>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros_like.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

namespace momentum {

namespace {

constexpr int kThreads = 256; // of a block
constexpr int64_t kMostBlocks = 65536; // beyond that each thread takes several of the items

int blocks_for(int64_t items) {
  return static_cast<int>(std::min((items + kThreads - 1) / kThreads, kMostBlocks));
}

// The first item of this thread, and how far the next one is: a loop by them covers any number of items with any grid.
__device__ int64_t first_item() {
  return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}

__device__ int64_t item_stride() {
  return static_cast<int64_t>(gridDim.x) * blockDim.x;
}

struct Sizes {
  int64_t batch, joints, vertices, influences;
};

constexpr int kMatrix = 12; // numbers in the upper three rows of a transform

// A thread takes a vertex of one element of the batch.
template <typename scalar_t>
__global__ void blend(
    Sizes sizes,
    const scalar_t* __restrict__ skin,
    const scalar_t* __restrict__ vertices,
    const int64_t* __restrict__ indices,
    const scalar_t* __restrict__ weights,
    scalar_t* __restrict__ moved) {
  for (int64_t item = first_item(); item < sizes.batch * sizes.vertices; item += item_stride()) {
    const int64_t element = item / sizes.vertices, vertex = item % sizes.vertices;
    scalar_t blended[kMatrix] = {};
    for (int64_t k = 0; k < sizes.influences; ++k) {
      const int64_t joint = indices[vertex * sizes.influences + k];
      const scalar_t weight = weights[vertex * sizes.influences + k];
      const scalar_t* matrix = skin + (element * sizes.joints + joint) * kMatrix;
      for (int i = 0; i < kMatrix; ++i) {
        blended[i] += weight * matrix[i];
      }
    }
    const scalar_t x = vertices[3 * vertex], y = vertices[3 * vertex + 1], z = vertices[3 * vertex + 2];
    for (int row = 0; row < 3; ++row) {
      const scalar_t* line = blended + 4 * row;
      moved[3 * item + row] = line[0] * x + line[1] * y + line[2] * z + line[3];
    }
  }
}

// A thread takes a vertex of one element of the batch. Vertices share joints, hence the atomic sums.
template <typename scalar_t>
__global__ void skin_gradient(
    Sizes sizes,
    const scalar_t* __restrict__ gradient,
    const scalar_t* __restrict__ vertices,
    const int64_t* __restrict__ indices,
    const scalar_t* __restrict__ weights,
    scalar_t* __restrict__ of_skin) {
  for (int64_t item = first_item(); item < sizes.batch * sizes.vertices; item += item_stride()) {
    const int64_t element = item / sizes.vertices, vertex = item % sizes.vertices;
    const scalar_t point[4] = {vertices[3 * vertex], vertices[3 * vertex + 1], vertices[3 * vertex + 2], scalar_t(1)};
    for (int64_t k = 0; k < sizes.influences; ++k) {
      const int64_t joint = indices[vertex * sizes.influences + k];
      const scalar_t weight = weights[vertex * sizes.influences + k];
      scalar_t* matrix = of_skin + (element * sizes.joints + joint) * kMatrix;
      for (int row = 0; row < 3; ++row) {
        const scalar_t pull = weight * gradient[3 * item + row];
        for (int column = 0; column < 4; ++column) {
          gpuAtomicAddNoReturn(matrix + 4 * row + column, pull * point[column]);
        }
      }
    }
  }
}

// A thread takes a vertex, and adds up over the batch: nobody else writes to the gradients of that vertex.
template <typename scalar_t>
__global__ void vertex_and_weight_gradient(
    Sizes sizes,
    const scalar_t* __restrict__ gradient,
    const scalar_t* __restrict__ skin,
    const scalar_t* __restrict__ vertices,
    const int64_t* __restrict__ indices,
    const scalar_t* __restrict__ weights,
    scalar_t* __restrict__ of_vertices,
    scalar_t* __restrict__ of_weights) {
  for (int64_t vertex = first_item(); vertex < sizes.vertices; vertex += item_stride()) {
    const scalar_t x = vertices[3 * vertex], y = vertices[3 * vertex + 1], z = vertices[3 * vertex + 2];
    scalar_t of_vertex[3] = {};
    for (int64_t k = 0; k < sizes.influences; ++k) {
      const int64_t joint = indices[vertex * sizes.influences + k];
      const scalar_t weight = weights[vertex * sizes.influences + k];
      scalar_t of_weight = 0;
      for (int64_t element = 0; element < sizes.batch; ++element) {
        const scalar_t* matrix = skin + (element * sizes.joints + joint) * kMatrix;
        const scalar_t* pull = gradient + 3 * (element * sizes.vertices + vertex);
        for (int row = 0; row < 3; ++row) {
          const scalar_t* line = matrix + 4 * row;
          of_weight += pull[row] * (line[0] * x + line[1] * y + line[2] * z + line[3]);
          for (int column = 0; column < 3; ++column) {
            of_vertex[column] += weight * pull[row] * line[column];
          }
        }
      }
      of_weights[vertex * sizes.influences + k] = of_weight;
    }
    for (int column = 0; column < 3; ++column) {
      of_vertices[3 * vertex + column] = of_vertex[column];
    }
  }
}

// Raw pointers are read from here on: what the shapes, dtypes and devices of all arguments must be.
Sizes checked_sizes(
    const at::Tensor& skin, const at::Tensor& vertices, const at::Tensor& indices, const at::Tensor& weights) {
  TORCH_CHECK(skin.is_cuda(), "skin must lie on a GPU, got ", skin.device());
  TORCH_CHECK(skin.dim() == 4 && skin.size(2) == 3 && skin.size(3) == 4, "skin must have shape [B, J, 3, 4], got ",
              skin.sizes());
  TORCH_CHECK(vertices.dim() == 2 && vertices.size(1) == 3, "vertices must have shape [V, 3], got ", vertices.sizes());
  TORCH_CHECK(indices.dim() == 2 && indices.size(0) == vertices.size(0), "indices must have shape [V, K], got ",
              indices.sizes());
  TORCH_CHECK(weights.sizes() == indices.sizes(), "weights must have the shape of indices, got ", weights.sizes());
  TORCH_CHECK(indices.scalar_type() == at::kLong, "indices must be int64, got ", indices.dtype());
  for (const auto& tensor : {vertices, weights}) {
    TORCH_CHECK(tensor.scalar_type() == skin.scalar_type(), "dtypes differ: ", tensor.dtype(), " and ", skin.dtype());
  }
  for (const auto& tensor : {vertices, indices, weights}) {
    TORCH_CHECK(tensor.device() == skin.device(), "devices differ: ", tensor.device(), " and ", skin.device());
  }
  return {skin.size(0), skin.size(1), vertices.size(0), indices.size(1)};
}

void check_gradient(const at::Tensor& gradient, const at::Tensor& skin, const Sizes& sizes) {
  TORCH_CHECK(gradient.sizes() == at::IntArrayRef({sizes.batch, sizes.vertices, 3}),
              "the gradient must have shape [B, V, 3], got ", gradient.sizes());
  TORCH_CHECK(gradient.scalar_type() == skin.scalar_type() && gradient.device() == skin.device(),
              "the gradient must have the dtype and device of skin, got ", gradient.dtype(), " on ", gradient.device());
}

// As the kernels read it: no gaps, and no negation that is yet to be done (torch keeps that as a bit of a tensor).
at::Tensor dense(const at::Tensor& tensor) {
  return tensor.resolve_neg().contiguous();
}

} // namespace

at::Tensor blend_on_cuda(
    const at::Tensor& skin, const at::Tensor& vertices, const at::Tensor& indices, const at::Tensor& weights) {
  const auto sizes = checked_sizes(skin, vertices, indices, weights);
  const c10::cuda::CUDAGuard guard(skin.device());
  const auto moved = at::empty({sizes.batch, sizes.vertices, 3}, skin.options());
  const auto items = sizes.batch * sizes.vertices;
  if (items == 0) {
    return moved; // a grid without blocks cannot be launched
  }
  const auto skin_ = dense(skin), vertices_ = dense(vertices), indices_ = dense(indices), weights_ = dense(weights);
  const auto stream = c10::cuda::getCurrentCUDAStream();
  AT_DISPATCH_FLOATING_TYPES(skin.scalar_type(), "linear_blend_skinning", [&] {
    blend<scalar_t><<<blocks_for(items), kThreads, 0, stream>>>(
        sizes, skin_.const_data_ptr<scalar_t>(), vertices_.const_data_ptr<scalar_t>(),
        indices_.const_data_ptr<int64_t>(), weights_.const_data_ptr<scalar_t>(), moved.mutable_data_ptr<scalar_t>());
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  });
  return moved;
}

at::Tensor skin_gradient_on_cuda(
    const at::Tensor& gradient,
    const at::Tensor& skin,
    const at::Tensor& vertices,
    const at::Tensor& indices,
    const at::Tensor& weights) {
  const auto sizes = checked_sizes(skin, vertices, indices, weights);
  check_gradient(gradient, skin, sizes);
  const c10::cuda::CUDAGuard guard(skin.device());
  const auto of_skin = at::zeros_like(skin, {}, at::MemoryFormat::Contiguous);
  const auto items = sizes.batch * sizes.vertices;
  if (items == 0) {
    return of_skin;
  }
  const auto gradient_ = dense(gradient), vertices_ = dense(vertices), indices_ = dense(indices),
             weights_ = dense(weights);
  const auto stream = c10::cuda::getCurrentCUDAStream();
  AT_DISPATCH_FLOATING_TYPES(skin.scalar_type(), "linear_blend_skinning_backward", [&] {
    skin_gradient<scalar_t><<<blocks_for(items), kThreads, 0, stream>>>(
        sizes, gradient_.const_data_ptr<scalar_t>(), vertices_.const_data_ptr<scalar_t>(),
        indices_.const_data_ptr<int64_t>(), weights_.const_data_ptr<scalar_t>(), of_skin.mutable_data_ptr<scalar_t>());
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  });
  return of_skin;
}

std::tuple<at::Tensor, at::Tensor> vertex_and_weight_gradient_on_cuda(
    const at::Tensor& gradient,
    const at::Tensor& skin,
    const at::Tensor& vertices,
    const at::Tensor& indices,
    const at::Tensor& weights) {
  const auto sizes = checked_sizes(skin, vertices, indices, weights);
  check_gradient(gradient, skin, sizes);
  const c10::cuda::CUDAGuard guard(skin.device());
  const auto of_vertices = at::empty(vertices.sizes(), vertices.options());
  const auto of_weights = at::empty(weights.sizes(), weights.options());
  if (sizes.vertices == 0) {
    return {of_vertices, of_weights};
  }
  const auto gradient_ = dense(gradient), skin_ = dense(skin), vertices_ = dense(vertices), indices_ = dense(indices),
             weights_ = dense(weights);
  const auto stream = c10::cuda::getCurrentCUDAStream();
  AT_DISPATCH_FLOATING_TYPES(skin.scalar_type(), "linear_blend_skinning_backward", [&] {
    vertex_and_weight_gradient<scalar_t><<<blocks_for(sizes.vertices), kThreads, 0, stream>>>(
        sizes, gradient_.const_data_ptr<scalar_t>(), skin_.const_data_ptr<scalar_t>(),
        vertices_.const_data_ptr<scalar_t>(), indices_.const_data_ptr<int64_t>(), weights_.const_data_ptr<scalar_t>(),
        of_vertices.mutable_data_ptr<scalar_t>(), of_weights.mutable_data_ptr<scalar_t>());
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  });
  return {of_vertices, of_weights};
}

} // namespace momentum
