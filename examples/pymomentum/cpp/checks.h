#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <c10/core/SymInt.h>
#include <c10/util/Exception.h>

// Argument checks that name the argument, the shape wanted and the shape found. Sizes are compared as c10::SymInt, so
// that a check holds for symbolic sizes too; a failed check raises ValueError (TypeError for dtypes) in Python.
namespace momentum {

inline void check_dims(const at::Tensor& tensor, int64_t least, const char* name, const char* shape) {
  TORCH_CHECK_VALUE(
      tensor.dim() >= least, name, " must have shape ", shape, ", got ", tensor.sym_sizes());
}

inline void check_size(
    const at::Tensor& tensor, int64_t dim, const c10::SymInt& wanted, const char* name, const char* shape) {
  if (tensor.sym_size(dim) != wanted) {
    TORCH_CHECK_VALUE(false, name, " must have shape ", shape, ", got ", tensor.sym_sizes(),
                      ": dimension ", dim, " is ", tensor.sym_size(dim), ", not ", wanted);
  }
}

inline void check_floating(const at::Tensor& tensor, const char* name) {
  TORCH_CHECK_TYPE(at::isFloatingType(tensor.scalar_type()), name, " must be floating point, got ", tensor.dtype());
}

// Leading dimensions of two tensors, but for the last `tail` and `other_tail`, must broadcast together.
inline void check_batches(
    const at::Tensor& tensor, int64_t tail, const char* name, const at::Tensor& other, int64_t other_tail,
    const char* other_name) {
  for (int64_t i = 1; i <= tensor.dim() - tail && i <= other.dim() - other_tail; ++i) {
    const auto size = tensor.sym_size(-tail - i), other_size = other.sym_size(-other_tail - i);
    if (size != other_size && size != 1 && other_size != 1) {
      TORCH_CHECK_VALUE(false, "the leading dimensions of ", name, " and ", other_name, " do not broadcast, got ",
                        tensor.sym_sizes(), " and ", other.sym_sizes());
    }
  }
}

inline void check_alike(const at::Tensor& tensor, const at::Tensor& other, const char* name, const char* other_name) {
  TORCH_CHECK_TYPE(tensor.scalar_type() == other.scalar_type(), name, " and ", other_name,
                   " must have one dtype, got ", tensor.dtype(), " and ", other.dtype());
  TORCH_CHECK_VALUE(tensor.device() == other.device(), name, " and ", other_name, " must lie on one device, got ",
                    tensor.device(), " and ", other.device());
}

} // namespace momentum
