#include <c10/core/ScalarType.h>

extern "C" int bytes_of_float() { return static_cast<int>(c10::elementSize(c10::ScalarType::Float)); }
