#include <algorithm>
#include <chrono>
#include <vector>

#include "core/cuda/blas/cuda_blas.h"
#include "tests/bench/gpu_bench/measure.h"
#include "tests/support/random.h"

namespace tandem::bench {
namespace {

constexpr int kProductsAtOnce = 8;

/// bfloat16 of magnitude 1 to 2: zeros would take less power, and so be faster.
absl::StatusOr<std::shared_ptr<std::byte>> RandomMatrix(core::CudaMemory& memory, int64_t bytes) {
  TANDEM_ASSIGN_OR_RETURN(std::shared_ptr<std::byte> matrix, memory.AllocateZeroed(bytes));
  constexpr int64_t kPattern = int64_t{1} << 20;
  std::vector<uint16_t> values(static_cast<size_t>(std::min(kPattern, bytes / 2)));
  testing::SplitMix random(1);
  for (uint16_t& value : values) value = static_cast<uint16_t>(0x3f80 | (random.Next() & 0x807f));
  const core::CopyRun run{.device = matrix.get(),
                          .host = reinterpret_cast<std::byte*>(values.data()),
                          .bytes = values.size() * sizeof(uint16_t)};
  TANDEM_RETURN_IF_ERROR(memory.CopyFromHost({&run, 1}));
  TANDEM_RETURN_IF_ERROR(Repeat(memory, matrix.get(), static_cast<int64_t>(run.bytes), bytes));
  return matrix;
}

}  // namespace

absl::StatusOr<double> DenseRate(core::CudaMemory& memory, int64_t n, const Effort& effort) {
  TANDEM_ASSIGN_OR_RETURN(const std::unique_ptr<core::CudaBlas> blas, core::OpenCudaBlas());
  const int64_t elements = n * n;
  TANDEM_ASSIGN_OR_RETURN(const auto weights, RandomMatrix(memory, 2 * elements));
  TANDEM_ASSIGN_OR_RETURN(const auto x, RandomMatrix(memory, 2 * elements));
  TANDEM_ASSIGN_OR_RETURN(const auto out, memory.AllocateZeroed(4 * elements));
  const core::CudaBlas::Product product{.weights = reinterpret_cast<const uint16_t*>(weights.get()),
                                        .x = reinterpret_cast<const uint16_t*>(x.get()),
                                        .rows = n,
                                        .tokens = n,
                                        .columns = n,
                                        .out = reinterpret_cast<float*>(out.get()),
                                        .out_stride = n};
  using Clock = std::chrono::steady_clock;
  const auto run = [&]() -> absl::Status {
    for (int i = 0; i < kProductsAtOnce; ++i) {
      if (!blas->Multiply(memory.stream(), product)) {
        return Unimplemented("cuBLASLt has no product of {} rows and columns", n);
      }
    }
    std::byte word[4];
    const core::CopyRun read{.device = out.get(), .host = word, .bytes = sizeof(word)};
    return memory.CopyToHost({&read, 1});
  };
  TANDEM_RETURN_IF_ERROR(run());
  const auto begin = Clock::now();
  double seconds = 0;
  int products = 0;
  while (products < kProductsAtOnce * effort.least || seconds < effort.seconds) {
    TANDEM_RETURN_IF_ERROR(run());
    products += kProductsAtOnce;
    seconds = std::chrono::duration<double>(Clock::now() - begin).count();
  }
  const auto size = static_cast<double>(n);
  return 2 * size * size * size * products / seconds;
}

}  // namespace tandem::bench
