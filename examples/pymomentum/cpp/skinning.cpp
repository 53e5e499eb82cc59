#include "skinning.h"

#include <ATen/ops/matmul.h>

#include "checks.h"

#ifdef PYMOMENTUM_CUDA
#include <ATen/Context.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/zeros_like.h>
#include <c10/util/accumulate.h>
#include <torch/csrc/autograd/custom_function.h>

#include "skinning_cuda.h"
#endif

namespace momentum {

namespace {

// skin [..., J, 3, 4], indices [V, K] -> [..., V, K, 3, 4]: the matrices of each vertex's joints.
at::Tensor pick(const at::Tensor& skin, const at::Tensor& indices) {
  auto sizes = skin.sizes().slice(0, skin.dim() - 3).vec();
  sizes.insert(sizes.end(), {indices.size(0), indices.size(1), 3, 4});
  return skin.index_select(-3, indices.flatten()).reshape(sizes);
}

// [..., V, K, 3, 4] -> [..., V, 3, 4]: the one matrix that moves a vertex.
at::Tensor blend(const at::Tensor& picked, const at::Tensor& weights) {
  return (picked * weights.unsqueeze(-1).unsqueeze(-1)).sum(-3);
}

#ifdef PYMOMENTUM_CUDA

// Whether a kernel may read the tensor's memory: not where torch.func, forward-mode AD or a subclass in Python stands
// between the tensor and it. Then at:: operators do the work, as they do for float16.
bool is_plain(const at::Tensor& tensor) {
  return tensor.has_storage() && !tensor.key_set().has(c10::DispatchKey::Python) && !tensor._fw_grad(0).defined();
}

bool kernel_takes(const at::Tensor& skin, const at::Tensor& vertices, const at::Tensor& weights) {
  const auto type = skin.scalar_type();
  // Autocast may have made skin float16 beside vertices of float32.
  return skin.is_cuda() && (type == at::kFloat || type == at::kDouble) && vertices.scalar_type() == type &&
      is_plain(skin) && is_plain(vertices) && is_plain(weights);
}

// skin [B, J, 3, 4], vertices [V, 3], indices [V, K], weights [V, K] -> [B, V, 3].
class BlendOnCuda : public torch::autograd::Function<BlendOnCuda> {
 public:
  static at::Tensor forward(
      torch::autograd::AutogradContext* context,
      const at::Tensor& skin,
      const at::Tensor& vertices,
      const at::Tensor& indices,
      const at::Tensor& weights) {
    context->save_for_backward({skin, vertices, indices, weights});
    return blend_on_cuda(skin, vertices, indices, weights);
  }

  static torch::autograd::variable_list backward(
      torch::autograd::AutogradContext* context, torch::autograd::variable_list gradients) {
    const auto& gradient = gradients[0];
    const auto saved = context->get_saved_variables();
    const auto &skin = saved[0], &vertices = saved[1], &indices = saved[2], &weights = saved[3];
    // The kernels' gradients cannot be differentiated again, and differ in their last bits from call to call.
    if (at::GradMode::is_enabled() || at::globalContext().deterministicAlgorithms()) {
      return differentiable_backward(gradient, skin, vertices, indices, weights);
    }
    at::Tensor of_skin, of_vertices, of_weights;
    if (context->needs_input_grad(0)) {
      of_skin = skin_gradient_on_cuda(gradient, skin, vertices, indices, weights);
    }
    if (context->needs_input_grad(1) || context->needs_input_grad(3)) {
      std::tie(of_vertices, of_weights) =
          vertex_and_weight_gradient_on_cuda(gradient, skin, vertices, indices, weights);
    }
    return {of_skin, of_vertices, at::Tensor(), of_weights};
  }

 private:
  static torch::autograd::variable_list differentiable_backward(
      const at::Tensor& gradient,
      const at::Tensor& skin,
      const at::Tensor& vertices,
      const at::Tensor& indices,
      const at::Tensor& weights) {
    const auto points = at::cat({vertices, at::ones_like(vertices.narrow(-1, 0, 1))}, -1); // [V, 4]
    const auto of_blended = (gradient.unsqueeze(-1) * points.unsqueeze(-2)).unsqueeze(-3); // [B, V, 1, 3, 4]
    const auto of_picked = of_blended * weights.unsqueeze(-1).unsqueeze(-1);
    const auto of_skin = at::zeros_like(skin).index_add(1, indices.flatten(), of_picked.flatten(1, 2));
    const auto picked = pick(skin, indices);
    const auto turn = blend(picked, weights).narrow(-1, 0, 3).transpose(-2, -1);
    const auto of_vertices = at::matmul(turn, gradient.unsqueeze(-1)).squeeze(-1).sum(0);
    const auto of_weights = (picked * of_blended).sum({0, 3, 4});
    return {of_skin, of_vertices, at::Tensor(), of_weights};
  }
};

#endif

} // namespace

at::Tensor linear_blend_skinning(
    const at::Tensor& transforms,
    const at::Tensor& inverse_bind,
    const at::Tensor& vertices,
    const at::Tensor& indices,
    const at::Tensor& weights) {
  check_dims(transforms, 3, "transforms", "[..., J, 4, 4]");
  check_size(transforms, -1, 4, "transforms", "[..., J, 4, 4]");
  check_size(transforms, -2, 4, "transforms", "[..., J, 4, 4]");
  check_floating(transforms, "transforms");
  check_dims(inverse_bind, 3, "inverse_bind", "[J, 4, 4]");
  check_size(inverse_bind, -1, 4, "inverse_bind", "[J, 4, 4]");
  check_size(inverse_bind, -2, 4, "inverse_bind", "[J, 4, 4]");
  check_size(inverse_bind, -3, transforms.sym_size(-3), "inverse_bind", "[J, 4, 4] with the J of transforms");
  check_dims(vertices, 2, "vertices", "[V, 3]");
  check_size(vertices, -1, 3, "vertices", "[V, 3]");
  check_dims(indices, 2, "indices", "[V, K]");
  check_size(indices, 0, vertices.sym_size(0), "indices", "[V, K] with the V of vertices");
  check_dims(weights, 2, "weights", "[V, K]");
  check_size(weights, 0, indices.sym_size(0), "weights", "[V, K] as indices");
  check_size(weights, 1, indices.sym_size(1), "weights", "[V, K] as indices");
  TORCH_CHECK_TYPE(indices.scalar_type() == at::kLong, "indices must be int64, got ", indices.dtype());
  check_alike(inverse_bind, transforms, "inverse_bind", "transforms");
  check_alike(vertices, transforms, "vertices", "transforms");
  check_alike(weights, transforms, "weights", "transforms");

  TORCH_CHECK_VALUE(indices.device() == transforms.device(), "indices and transforms must lie on one device, got ",
                    indices.device(), " and ", transforms.device());
  if (indices.numel() > 0) {
    const auto low = indices.min().item<int64_t>(), high = indices.max().item<int64_t>();
    TORCH_CHECK_INDEX(low >= 0 && high < transforms.size(-3), "indices has ", low < 0 ? low : high,
                      ", but the joints are 0 to ", transforms.size(-3) - 1);
  }

  const auto skin = at::matmul(transforms, inverse_bind).narrow(-2, 0, 3);
#ifdef PYMOMENTUM_CUDA
  if (kernel_takes(skin, vertices, weights)) {
    auto sizes = skin.sizes().slice(0, skin.dim() - 3).vec();
    const auto batched = skin.reshape({c10::multiply_integers(sizes), skin.size(-3), 3, 4});
    sizes.insert(sizes.end(), {vertices.size(0), 3});
    return BlendOnCuda::apply(batched, vertices, indices, weights).reshape(sizes);
  }
#endif
  // Blend the matrices of each vertex's K joints first, then move each vertex once.
  const auto blended = blend(pick(skin, indices), weights);
  const auto turned = at::matmul(blended.narrow(-1, 0, 3), vertices.unsqueeze(-1)).squeeze(-1);
  return turned + blended.select(-1, 3);
}

} // namespace momentum
