// Products of packed weights beside what this machine can do at most: weights read a second over a
// plain read loop's bandwidth, and multiply-adds a second over the int8 peak of registers.
//
//     linear_bench [--benchmark_filter=...]
//
// Compare within one run only: bandwidth differs from hour to hour on shared machines.

#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <vector>

#include "core/cpu/linear/linear.h"
#include "core/cpu/machine_peak.h"

namespace tandem::core {
namespace {

// Far larger than a last-level cache, so that weights come from memory.
constexpr int64_t kReadBytes = int64_t{256} << 20;

void BM_ReadBandwidth(benchmark::State& state) {
  ThreadPool pool(static_cast<int>(state.range(0)));
  Arena arena;
  std::byte* data = *arena.Allocate(kReadBytes);
  std::memset(data, 1, kReadBytes);
  constexpr int64_t kPart = 1 << 20;
  for (auto _ : state) {
    pool.ParallelFor(kReadBytes / kPart, [&](int64_t part, int) {
      benchmark::DoNotOptimize(SumBytes(data + part * kPart, kPart));
    });
  }
  state.counters["GB/s"] = benchmark::Counter(static_cast<double>(kReadBytes) * 1e-9,
                                              benchmark::Counter::kIsIterationInvariantRate);
}

void BM_Int8Peak(benchmark::State& state) {
  if (BestIsa() != Isa::kAvx512) {
    state.SkipWithError("needs AVX-512 VNNI");
    return;
  }
  int64_t operations = 0;
  for (auto _ : state) operations += MultiplyAddInt8(Isa::kAvx512, 100000);
  state.counters["Gmac/s"] =
      benchmark::Counter(static_cast<double>(operations) * 1e-9, benchmark::Counter::kIsRate);
}

/// Bytes of random codes with scales that are usual numbers.
std::vector<std::byte> RandomBlocks(DType dtype, int64_t rows, int64_t columns) {
  std::vector<std::byte> bytes(static_cast<size_t>(rows * RowBytes(dtype, columns)));
  std::mt19937_64 random(1);
  for (size_t at = 0; at + 8 <= bytes.size(); at += 8) {
    // Keeps every float16 and float32 in it small and finite.
    const uint64_t word = random() & 0x3fff3fff3fff3fff;
    std::memcpy(bytes.data() + at, &word, 8);
  }
  return bytes;
}

/// Arguments: dtype, tokens, threads, isa, rows, columns, columns of a partial sum (0: no partial
/// sums).
void BM_Linear(benchmark::State& state) {
  const auto dtype = static_cast<DType>(state.range(0));
  const int64_t tokens = state.range(1);
  ThreadPool pool(static_cast<int>(state.range(2)));
  const auto isa = static_cast<Isa>(state.range(3));
  const int64_t rows = state.range(4);
  const int64_t columns = state.range(5);
  if (isa == Isa::kAvx512 && BestIsa() != Isa::kAvx512) {
    state.SkipWithError("needs AVX-512 VNNI");
    return;
  }
  const std::vector<std::byte> source = RandomBlocks(dtype, rows, columns);
  Arena arena;
  const PackedMatrix matrix =
      *PackedMatrix::Pack({"bench", dtype, source.data(), rows, columns}, {0, rows}, {0, columns},
                          ActivationMode::kQ8, arena, pool);
  std::vector<float> x(static_cast<size_t>(tokens * columns));
  std::mt19937 random(2);
  for (float& value : x) value = std::normal_distribution<float>()(random);
  Activations activations;
  activations.Assign(isa, {x.data(), tokens, columns, columns}, matrix.quantized(), pool);
  std::vector<float> out(static_cast<size_t>(tokens * rows));
  const int64_t partial_columns = state.range(6);
  std::vector<int64_t> sums(static_cast<size_t>(partial_columns == 0 ? 0 : tokens * rows));
  std::vector<int64_t> failed(static_cast<size_t>(tokens));
  for (auto _ : state) {
    if (partial_columns == 0) {
      const LinearJob job = {&matrix, out.data(), rows};
      Linear(isa, {&job, 1}, activations, pool);
    } else {
      LinearPartialSums(isa, matrix, activations,
                        {partial_columns, sums.data(), rows, failed.data()}, pool);
    }
    benchmark::DoNotOptimize(out.data());
    benchmark::ClobberMemory();
  }
  const auto rate = benchmark::Counter::kIsIterationInvariantRate;
  state.counters["GB/s"] = benchmark::Counter(static_cast<double>(matrix.bytes()) * 1e-9, rate);
  state.counters["file GB/s"] = benchmark::Counter(static_cast<double>(source.size()) * 1e-9, rate);
  state.counters["Gmac/s"] =
      benchmark::Counter(static_cast<double>(tokens * rows * columns) * 1e-9, rate);
  state.SetLabel(std::string(DTypeName(dtype)) + " " + std::string(IsaName(isa)));
}

void BM_Pack(benchmark::State& state) {
  const auto dtype = static_cast<DType>(state.range(0));
  ThreadPool pool(static_cast<int>(state.range(1)));
  constexpr int64_t kRows = 8192;
  constexpr int64_t kColumns = 2048;
  const std::vector<std::byte> source = RandomBlocks(dtype, kRows, kColumns);
  for (auto _ : state) {
    Arena arena;
    benchmark::DoNotOptimize(PackedMatrix::Pack({"bench", dtype, source.data(), kRows, kColumns},
                                                {0, kRows}, {0, kColumns}, ActivationMode::kQ8,
                                                arena, pool));
  }
  state.counters["file GB/s"] = benchmark::Counter(static_cast<double>(source.size()) * 1e-9,
                                                   benchmark::Counter::kIsIterationInvariantRate);
  state.SetLabel(std::string(DTypeName(dtype)));
}

void BM_Quantize(benchmark::State& state) {
  const int64_t tokens = state.range(0);
  const auto isa = static_cast<Isa>(state.range(1));
  constexpr int64_t kColumns = 1536;
  ThreadPool pool(1);
  std::vector<float> x(static_cast<size_t>(tokens * kColumns), 1.0F);
  Activations activations;
  for (auto _ : state) {
    activations.Assign(isa, {x.data(), tokens, kColumns, kColumns}, true, pool);
    benchmark::ClobberMemory();
  }
  state.counters["Gvalues/s"] = benchmark::Counter(static_cast<double>(tokens * kColumns) * 1e-9,
                                                   benchmark::Counter::kIsIterationInvariantRate);
  state.SetLabel(std::string(IsaName(isa)));
}

constexpr int64_t Number(DType dtype) { return static_cast<int64_t>(dtype); }
constexpr int64_t Number(Isa isa) { return static_cast<int64_t>(isa); }

void DecodeArguments(benchmark::internal::Benchmark* benchmark) {
  for (const DType dtype : {DType::kQ4_0, DType::kQ4_1, DType::kQ8_0, DType::kQ5_0, DType::kQ4_K,
                            DType::kQ5_K, DType::kQ6_K, DType::kF16, DType::kF32}) {
    const int64_t rows = dtype == DType::kF32 ? 16384 : 65536;
    benchmark->Args({Number(dtype), 1, 1, Number(Isa::kAvx512), rows, 1536, 0});
  }
  benchmark->Args({Number(DType::kQ4_1), 1, 1, Number(Isa::kAvx2), 65536, 1536, 0});
  benchmark->Args({Number(DType::kQ8_0), 1, 1, Number(Isa::kAvx2), 65536, 1536, 0});
}

void PrefillArguments(benchmark::internal::Benchmark* benchmark) {
  for (const DType dtype : {DType::kQ4_0, DType::kQ4_1, DType::kQ8_0, DType::kQ5_0, DType::kQ4_K,
                            DType::kQ5_K, DType::kQ6_K, DType::kF16}) {
    benchmark->Args({Number(dtype), 512, 1, Number(Isa::kAvx512), 1536, 768, 0});
  }
  for (const int64_t tokens : {2, 4, 8, 16, 64}) {
    benchmark->Args({Number(DType::kQ4_1), tokens, 1, Number(Isa::kAvx512), 1536, 768, 0});
  }
  benchmark->Args({Number(DType::kQ4_1), 512, 1, Number(Isa::kAvx2), 1536, 768, 0});
  benchmark->Args({Number(DType::kQ8_0), 512, 1, Number(Isa::kAvx2), 1536, 768, 0});
}

/// The matrices of a small model (SmolLM2-135M): tiles of few blocks, and partial sums.
void SmallModelArguments(benchmark::internal::Benchmark* benchmark) {
  for (const DType dtype : {DType::kQ4_0, DType::kQ4_1, DType::kQ8_0}) {
    benchmark->Args({Number(dtype), 512, 1, Number(Isa::kAvx512), 1536, 576, 0});
    benchmark->Args({Number(dtype), 512, 1, Number(Isa::kAvx512), 576, 1536, 64});
  }
}

/// The matrices of a larger one (1B): its down projection's input outgrows second-level caches.
void LargerModelArguments(benchmark::internal::Benchmark* benchmark) {
  for (const int64_t tokens : {64, 512}) {
    benchmark->Args({Number(DType::kQ4_0), tokens, 1, Number(Isa::kAvx512), 8192, 2048, 0});
    benchmark->Args({Number(DType::kQ4_0), tokens, 1, Number(Isa::kAvx512), 2048, 8192, 0});
    benchmark->Args({Number(DType::kQ4_0), tokens, 1, Number(Isa::kAvx512), 2048, 8192, 512});
  }
}

/// Two threads: by the clock on the wall.
void ThreadedArguments(benchmark::internal::Benchmark* benchmark) {
  for (const DType dtype : {DType::kQ4_1, DType::kQ8_0}) {
    benchmark->Args({Number(dtype), 1, 2, Number(Isa::kAvx512), 65536, 1536, 0});
    benchmark->Args({Number(dtype), 512, 2, Number(Isa::kAvx512), 1536, 768, 0});
    benchmark->Args({Number(dtype), 1, 2, Number(Isa::kAvx512), 576, 576, 0});
  }
}

BENCHMARK(BM_ReadBandwidth)->Arg(1);
BENCHMARK(BM_ReadBandwidth)->Arg(2)->UseRealTime();
BENCHMARK(BM_Int8Peak);
BENCHMARK(BM_Linear)->Apply(DecodeArguments);
BENCHMARK(BM_Linear)->Apply(PrefillArguments);
BENCHMARK(BM_Linear)->Apply(SmallModelArguments);
BENCHMARK(BM_Linear)->Apply(LargerModelArguments);
BENCHMARK(BM_Linear)->Apply(ThreadedArguments)->UseRealTime();
BENCHMARK(BM_Pack)->ArgsProduct({{Number(DType::kQ4_0), Number(DType::kQ4_1), Number(DType::kQ8_0),
                                  Number(DType::kQ5_0), Number(DType::kQ4_K), Number(DType::kQ6_K),
                                  Number(DType::kF16)},
                                 {1}});
BENCHMARK(BM_Quantize)
    ->ArgsProduct({{1, 64}, {Number(Isa::kScalar), Number(Isa::kAvx2), Number(Isa::kAvx512)}});

}  // namespace
}  // namespace tandem::core

BENCHMARK_MAIN();
