#pragma once

#include <cstdint>

namespace tandem::core {

/// MultiplyAddInt8 of kAvx512.
int64_t MultiplyAddInt8Avx512(int64_t rounds);

}  // namespace tandem::core
