#pragma once

#include <vector>

#include <ATen/core/Tensor.h>

namespace momentum {

// The tree of joints: parents[j] < j is the joint that j hangs on, -1 for a root.
class Chain {
 public:
  explicit Chain(std::vector<int64_t> parents);

  int64_t size() const {
    return static_cast<int64_t>(parents_.size());
  }

  // Global transforms [..., J, 4, 4] from local ones of the same shape. One batched product per depth of the tree, not
  // one per joint.
  at::Tensor accumulate(const at::Tensor& local) const;

  // [E, J] bool: whether turning joint j moves the origin of effector e, that is, whether j lies strictly above e.
  at::Tensor moves(const std::vector<int64_t>& effectors, c10::Device device) const;

 private:
  std::vector<int64_t> parents_;
  std::vector<std::vector<int64_t>> levels_; // joints by depth
};

// offsets [..., J, 3], rotations [..., J, 3, 3] -> global transforms [..., J, 4, 4].
at::Tensor forward_kinematics(const Chain& chain, const at::Tensor& offsets, const at::Tensor& rotations);

} // namespace momentum
