#include "chain.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include "checks.h"
#include "rotation.h"

namespace momentum {

Chain::Chain(std::vector<int64_t> parents) : parents_(std::move(parents)) {
  TORCH_CHECK_VALUE(!parents_.empty(), "parents must name at least one joint");
  std::vector<size_t> depth(parents_.size());
  for (size_t joint = 0; joint < parents_.size(); ++joint) {
    const auto parent = parents_[joint];
    TORCH_CHECK_VALUE(parent >= -1 && parent < static_cast<int64_t>(joint), "parents[", joint, "] is ", parent,
                      ": a parent comes before its children, and a root's is -1");
    depth[joint] = parent < 0 ? 0 : depth[parent] + 1;
    if (depth[joint] == levels_.size()) {
      levels_.emplace_back();
    }
    levels_[depth[joint]].push_back(static_cast<int64_t>(joint));
  }
}

at::Tensor Chain::accumulate(const at::Tensor& local) const {
  const auto index = at::TensorOptions().dtype(at::kLong).device(local.device());
  std::vector<at::Tensor> by_level;
  std::vector<int64_t> place(parents_.size()); // of a joint in the concatenation of all levels
  std::vector<int64_t> place_in_level(parents_.size());
  int64_t placed = 0;
  for (const auto& level : levels_) {
    auto global = local.index_select(-3, at::tensor(level, index));
    if (!by_level.empty()) {
      std::vector<int64_t> above;
      above.reserve(level.size());
      for (const auto joint : level) {
        above.push_back(place_in_level[parents_[joint]]);
      }
      global = at::matmul(by_level.back().index_select(-3, at::tensor(above, index)), global);
    }
    for (size_t i = 0; i < level.size(); ++i) {
      place_in_level[level[i]] = static_cast<int64_t>(i);
      place[level[i]] = placed++;
    }
    by_level.push_back(global);
  }
  return at::cat(by_level, -3).index_select(-3, at::tensor(place, index));
}

at::Tensor Chain::moves(const std::vector<int64_t>& effectors, c10::Device device) const {
  auto mask = at::zeros({static_cast<int64_t>(effectors.size()), size()}, at::TensorOptions().dtype(at::kBool));
  auto cells = mask.accessor<bool, 2>();
  for (size_t e = 0; e < effectors.size(); ++e) {
    TORCH_CHECK_INDEX(effectors[e] >= 0 && effectors[e] < size(), "effectors[", e, "] is ", effectors[e],
                      ", but the joints are 0 to ", size() - 1);
    for (auto joint = parents_[effectors[e]]; joint >= 0; joint = parents_[joint]) {
      cells[static_cast<int64_t>(e)][joint] = true;
    }
  }
  return mask.to(device);
}

at::Tensor forward_kinematics(const Chain& chain, const at::Tensor& offsets, const at::Tensor& rotations) {
  check_dims(offsets, 2, "offsets", "[..., J, 3]");
  check_size(offsets, -1, 3, "offsets", "[..., J, 3]");
  check_size(offsets, -2, chain.size(), "offsets", "[..., J, 3] with J = len(parents)");
  check_floating(offsets, "offsets");
  check_dims(rotations, 3, "rotations", "[..., J, 3, 3]");
  check_size(rotations, -1, 3, "rotations", "[..., J, 3, 3]");
  check_size(rotations, -2, 3, "rotations", "[..., J, 3, 3]");
  check_size(rotations, -3, offsets.sym_size(-2), "rotations", "[..., J, 3, 3] with J = len(parents)");
  check_alike(rotations, offsets, "rotations", "offsets");
  check_batches(rotations, 3, "rotations", offsets, 2, "offsets");
  return chain.accumulate(compose_rigid(rotations, offsets));
}

} // namespace momentum
