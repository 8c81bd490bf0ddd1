#include "core/base/isa.h"

#include <cpuid.h>
#include <immintrin.h>

#include <array>
#include <cstdint>
#include <string>

namespace tandem::core {
namespace {

enum class Register : uint8_t { kLeaf1Ecx, kLeaf7Ebx, kLeaf7Ecx, kExtendedEcx };

struct Feature {
  std::string_view name;
  Register where;
  int bit;
};

constexpr std::array<Feature, 8> kProgramFeatures = {{
    {"AVX", Register::kLeaf1Ecx, 28},
    {"FMA", Register::kLeaf1Ecx, 12},
    {"F16C", Register::kLeaf1Ecx, 29},
    {"MOVBE", Register::kLeaf1Ecx, 22},
    {"AVX2", Register::kLeaf7Ebx, 5},
    {"BMI1", Register::kLeaf7Ebx, 3},
    {"BMI2", Register::kLeaf7Ebx, 8},
    {"LZCNT", Register::kExtendedEcx, 5},
}};

constexpr std::array<Feature, 5> kAvx512Features = {{
    {"AVX512F", Register::kLeaf7Ebx, 16},
    {"AVX512DQ", Register::kLeaf7Ebx, 17},
    {"AVX512BW", Register::kLeaf7Ebx, 30},
    {"AVX512VL", Register::kLeaf7Ebx, 31},
    {"AVX512_VNNI", Register::kLeaf7Ecx, 11},
}};

constexpr uint64_t kAvxState = 0x6;      // XCR0: SSE and AVX registers are saved
constexpr uint64_t kAvx512State = 0xe6;  // and opmasks, upper halves, upper sixteen

/// What CPUID and XCR0 say.
class Processor {
 public:
  Processor() {
    uint32_t eax = 0;
    uint32_t ebx = 0;
    uint32_t ecx = 0;
    uint32_t edx = 0;
    if (__get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0) registers_[0] = ecx;
    constexpr uint32_t kOsXsave = 1U << 27;
    if ((registers_[0] & kOsXsave) != 0) saved_state_ = ReadXcr0();
    if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) != 0) {
      registers_[1] = ebx;
      registers_[2] = ecx;
    }
    if (__get_cpuid(0x80000001, &eax, &ebx, &ecx, &edx) != 0) registers_[3] = ecx;
  }

  /// Names of the features that are missing, comma separated; empty if none is.
  template <size_t kCount>
  std::string Missing(const std::array<Feature, kCount>& features, uint64_t state) const {
    std::string missing;
    for (const Feature& feature : features) {
      const uint32_t bits = registers_[static_cast<size_t>(feature.where)];
      if ((bits >> feature.bit & 1U) == 0) Append(missing, feature.name);
    }
    if ((saved_state_ & state) != state) Append(missing, "operating system support");
    return missing;
  }

 private:
  static void Append(std::string& list, std::string_view name) {
    if (!list.empty()) list += ", ";
    list += name;
  }

  // As an instruction, because the intrinsic needs a flag that would allow XSAVE everywhere.
  static uint64_t ReadXcr0() {
    uint32_t low = 0;
    uint32_t high = 0;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (static_cast<uint64_t>(high) << 32) | low;
  }

  std::array<uint32_t, 4> registers_ = {};
  uint64_t saved_state_ = 0;
};

}  // namespace

std::string_view IsaName(Isa isa) {
  switch (isa) {
    case Isa::kScalar:
      return "scalar";
    case Isa::kAvx2:
      return "avx2";
    case Isa::kAvx512:
      return "avx512";
  }
  return "unknown";
}

Isa BestIsa() {
  static const Isa best =
      Processor().Missing(kAvx512Features, kAvx512State).empty() ? Isa::kAvx512 : Isa::kAvx2;
  return best;
}

absl::StatusOr<Isa> ParseIsa(std::string_view name) {
  if (name == "auto") return BestIsa();
  if (name == "scalar") return Isa::kScalar;
  if (name == "avx2") return Isa::kAvx2;
  if (name == "avx512") {
    const std::string missing = Processor().Missing(kAvx512Features, kAvx512State);
    if (missing.empty()) return Isa::kAvx512;
    return FailedPrecondition(
        "instruction set avx512: this processor lacks {}; use auto, avx2 or scalar", missing);
  }
  return InvalidArgument("unknown instruction set '{}': expected auto, scalar, avx2 or avx512",
                         name);
}

absl::Status CheckProcessor() {
  const std::string missing = Processor().Missing(kProgramFeatures, kAvxState);
  if (missing.empty()) return absl::OkStatus();
  return FailedPrecondition(
      "this processor lacks {}: tandem needs an x86-64 processor with AVX2, FMA and F16C "
      "(2013 or later; in a virtual machine, pass the host's processor through)",
      missing);
}

void SetFloatEnvironment() {
  constexpr unsigned kRoundingMode = 0x6000;
  constexpr unsigned kFlushToZero = 0x8000;
  constexpr unsigned kDenormalsAreZero = 0x0040;
  constexpr unsigned kExceptionMasks = 0x1f80;
  _mm_setcsr((_mm_getcsr() & ~(kRoundingMode | kFlushToZero | kDenormalsAreZero)) |
             kExceptionMasks);
}

}  // namespace tandem::core
