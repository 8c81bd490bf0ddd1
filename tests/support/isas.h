#pragma once

#include <vector>

#include "core/base/isa.h"

namespace tandem::test {

/// Every instruction set that this processor runs, the scalar reference first.
inline std::vector<core::Isa> SupportedIsas() {
  std::vector<core::Isa> isas = {core::Isa::kScalar, core::Isa::kAvx2};
  if (core::BestIsa() == core::Isa::kAvx512) isas.push_back(core::Isa::kAvx512);
  return isas;
}

}  // namespace tandem::test
