#include "core/cpu/machine_peak_kernels.h"

namespace tandem::core {

int64_t MultiplyAddInt8Avx512(int64_t rounds) {
  constexpr int kChains = 16;
  // As assembly on fixed registers, so that the compiler neither sees through the loop nor moves
  // the sums to memory.
  __asm__ volatile("vpxord %%zmm0, %%zmm0, %%zmm0" ::: "xmm0");
  for (int64_t round = 0; round < rounds; ++round) {
    __asm__ volatile(
        "vpdpbusd %%zmm0, %%zmm0, %%zmm16\n\tvpdpbusd %%zmm0, %%zmm0, %%zmm17\n\t"
        "vpdpbusd %%zmm0, %%zmm0, %%zmm18\n\tvpdpbusd %%zmm0, %%zmm0, %%zmm19\n\t"
        "vpdpbusd %%zmm0, %%zmm0, %%zmm20\n\tvpdpbusd %%zmm0, %%zmm0, %%zmm21\n\t"
        "vpdpbusd %%zmm0, %%zmm0, %%zmm22\n\tvpdpbusd %%zmm0, %%zmm0, %%zmm23\n\t"
        "vpdpbusd %%zmm0, %%zmm0, %%zmm24\n\tvpdpbusd %%zmm0, %%zmm0, %%zmm25\n\t"
        "vpdpbusd %%zmm0, %%zmm0, %%zmm26\n\tvpdpbusd %%zmm0, %%zmm0, %%zmm27\n\t"
        "vpdpbusd %%zmm0, %%zmm0, %%zmm28\n\tvpdpbusd %%zmm0, %%zmm0, %%zmm29\n\t"
        "vpdpbusd %%zmm0, %%zmm0, %%zmm30\n\tvpdpbusd %%zmm0, %%zmm0, %%zmm31" ::
            : "xmm16", "xmm17", "xmm18", "xmm19", "xmm20", "xmm21", "xmm22", "xmm23", "xmm24",
              "xmm25", "xmm26", "xmm27", "xmm28", "xmm29", "xmm30", "xmm31");
  }
  return rounds * kChains * 64;
}

}  // namespace tandem::core
