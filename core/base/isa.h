#pragma once

#include <string_view>

#include "core/base/status.h"

namespace tandem::core {

/// Instruction sets that kernels are written for. All give the same bits. The program itself needs
/// x86-64-v3 (AVX2, FMA, F16C).
enum class Isa { kScalar, kAvx2, kAvx512 };

std::string_view IsaName(Isa isa);  // "scalar", "avx2", "avx512"
/// The best that this processor (and its operating system) runs. AVX-512 means F, BW, DQ, VL and
/// VNNI.
Isa BestIsa();
/// By name, "auto" being BestIsa(); an error if unknown or not supported by this processor.
absl::StatusOr<Isa> ParseIsa(std::string_view name);
/// Fails, naming what is missing, on a processor that cannot run the program at all.
absl::Status CheckProcessor();
/// Rounding to nearest, denormals kept (numerics.md, rule 6), for the calling thread.
void SetFloatEnvironment();

}  // namespace tandem::core
