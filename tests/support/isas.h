#pragma once

#include <vector>

#include "core/isa.h"

namespace tandem::test {

/// Every instruction set that this processor runs, the scalar reference first.
inline std::vector<core::Isa> SupportedIsas() {
  std::vector<core::Isa> isas = {core::Isa::kScalar, core::Isa::kAvx2};
  if (__builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni")) {
    isas.push_back(core::Isa::kAvx512);
  }
  return isas;
}

/// For messages.
inline const char* Name(core::Isa isa) {
  return isa == core::Isa::kScalar ? "scalar" : isa == core::Isa::kAvx2 ? "avx2" : "avx512";
}

}  // namespace tandem::test
