#include "skinning.h"

#include <ATen/ops/matmul.h>

#include "checks.h"

namespace momentum {

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

  // Blend the matrices of each vertex's K joints first, then move each vertex once.
  const auto skin = at::matmul(transforms, inverse_bind).narrow(-2, 0, 3);
  auto sizes = skin.sizes().slice(0, skin.dim() - 3).vec();
  sizes.insert(sizes.end(), {indices.size(0), indices.size(1), 3, 4});
  const auto picked = skin.index_select(-3, indices.flatten()).reshape(sizes);
  const auto blended = (picked * weights.unsqueeze(-1).unsqueeze(-1)).sum(-3);
  const auto turned = at::matmul(blended.narrow(-1, 0, 3), vertices.unsqueeze(-1)).squeeze(-1);
  return turned + blended.select(-1, 3);
}

} // namespace momentum
