#include "core/cpu/machine_peak.h"

#include <immintrin.h>

#include <atomic>
#include <cstring>

#include "core/cpu/machine_peak_kernels.h"

namespace tandem::core {
namespace {

constexpr int64_t kReadTask = int64_t{1} << 20;  // bytes
constexpr int64_t kInt8Rounds = 10000;           // about 50 microseconds
constexpr int64_t kInt8TasksAThread = 64;

/// Seven chains: as many as two operands and a temporary each leave of 16 registers.
int64_t MultiplyAddInt8Avx2(int64_t rounds) {
  constexpr int kChains = 7;
  __asm__ volatile("vpxor %%ymm0, %%ymm0, %%ymm0\n\tvpxor %%ymm1, %%ymm1, %%ymm1" ::
                       : "xmm0", "xmm1");
  for (int64_t round = 0; round < rounds; ++round) {
    __asm__ volatile(
        "vpmaddubsw %%ymm0, %%ymm0, %%ymm2\n\tvpmaddubsw %%ymm0, %%ymm0, %%ymm3\n\t"
        "vpmaddubsw %%ymm0, %%ymm0, %%ymm4\n\tvpmaddubsw %%ymm0, %%ymm0, %%ymm5\n\t"
        "vpmaddubsw %%ymm0, %%ymm0, %%ymm6\n\tvpmaddubsw %%ymm0, %%ymm0, %%ymm7\n\t"
        "vpmaddubsw %%ymm0, %%ymm0, %%ymm8\n\t"
        "vpmaddwd %%ymm1, %%ymm2, %%ymm2\n\tvpmaddwd %%ymm1, %%ymm3, %%ymm3\n\t"
        "vpmaddwd %%ymm1, %%ymm4, %%ymm4\n\tvpmaddwd %%ymm1, %%ymm5, %%ymm5\n\t"
        "vpmaddwd %%ymm1, %%ymm6, %%ymm6\n\tvpmaddwd %%ymm1, %%ymm7, %%ymm7\n\t"
        "vpmaddwd %%ymm1, %%ymm8, %%ymm8\n\t"
        "vpaddd %%ymm2, %%ymm9, %%ymm9\n\tvpaddd %%ymm3, %%ymm10, %%ymm10\n\t"
        "vpaddd %%ymm4, %%ymm11, %%ymm11\n\tvpaddd %%ymm5, %%ymm12, %%ymm12\n\t"
        "vpaddd %%ymm6, %%ymm13, %%ymm13\n\tvpaddd %%ymm7, %%ymm14, %%ymm14\n\t"
        "vpaddd %%ymm8, %%ymm15, %%ymm15" ::
            : "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11",
              "xmm12", "xmm13", "xmm14", "xmm15");
  }
  return rounds * kChains * 32;
}

/// Calls `work`, which returns what it has done, until `time` is over; done a second.
template <typename Work>
double RateOver(std::chrono::nanoseconds time, const Work& work) {
  using Clock = std::chrono::steady_clock;
  const Clock::time_point begin = Clock::now();
  double done = 0;
  std::chrono::duration<double> passed{0};
  do {
    done += work();
    passed = Clock::now() - begin;
  } while (passed < time);
  return done / passed.count();
}

}  // namespace

int64_t SumBytes(const std::byte* data, int64_t bytes) {
  __m256i sums[8] = {};
  for (int64_t at = 0; at < bytes; at += 256) {
    for (int i = 0; i < 8; ++i) {
      const __m256i v = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(data + at + 32 * i));
      sums[i] = _mm256_add_epi64(sums[i], v);
    }
  }
  for (int i = 1; i < 8; ++i) sums[0] = _mm256_add_epi64(sums[0], sums[i]);
  alignas(32) uint64_t lanes[4];  // unsigned: the sum may wrap
  _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), sums[0]);
  return static_cast<int64_t>(lanes[0] + lanes[1] + lanes[2] + lanes[3]);
}

int64_t MultiplyAddInt8(Isa isa, int64_t rounds) {
  return isa == Isa::kAvx512 ? MultiplyAddInt8Avx512(rounds) : MultiplyAddInt8Avx2(rounds);
}

absl::StatusOr<ReadPeak> ReadPeak::Create(int64_t bytes, ThreadPool& pool) {
  ReadPeak peak;
  peak.bytes_ = std::max<int64_t>(1, (bytes + kReadTask - 1) / kReadTask) * kReadTask;
  TANDEM_ASSIGN_OR_RETURN(std::byte* const data, peak.arena_.Allocate(peak.bytes_));
  // Written, since pages that nobody has written are all one page of zeros.
  pool.ParallelFor(peak.bytes_ / kReadTask,
                   [&](int64_t task, int) { std::memset(data + task * kReadTask, 1, kReadTask); });
  peak.data_ = data;
  return peak;
}

double ReadPeak::Measure(std::chrono::nanoseconds time, ThreadPool& pool) const {
  std::atomic<int64_t> sum{0};
  return RateOver(time, [&] {
    pool.ParallelFor(bytes_ / kReadTask, [&](int64_t task, int) {
      sum.fetch_add(SumBytes(data_ + task * kReadTask, kReadTask), std::memory_order_relaxed);
    });
    return static_cast<double>(bytes_);
  });
}

double MeasureInt8Peak(Isa isa, std::chrono::nanoseconds time, ThreadPool& pool) {
  return RateOver(time, [&] {
    std::atomic<int64_t> done{0};
    pool.ParallelFor(kInt8TasksAThread * pool.threads(), [&](int64_t, int) {
      done.fetch_add(MultiplyAddInt8(isa, kInt8Rounds), std::memory_order_relaxed);
    });
    return static_cast<double>(done.load());
  });
}

}  // namespace tandem::core
