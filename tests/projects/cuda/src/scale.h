#pragma once

#include <ATen/ATen.h>

at::Tensor scale_cuda(const at::Tensor& input, double factor);
