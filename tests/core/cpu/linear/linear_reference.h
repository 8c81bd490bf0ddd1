#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "core/cpu/linear/linear.h"
#include "tests/core/cpu/linear/weight_samples.h"

/// Products straight from numerics.md, slow and obvious, and what the tests of products share.
namespace tandem::core {

inline constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
inline constexpr float kInfinity = std::numeric_limits<float>::infinity();

/// Those that this processor runs.
std::vector<Isa> AllIsas();

struct QuantizedBlock {
  int codes[32] = {};
  float scale = 0;
};
/// x: [count], up to 32.
QuantizedBlock QuantizeReference(const float* x, int64_t count);

/// One partial sum: columns of a row of `w` with as many of x.
float PartialSumReference(const WeightSample& w, int64_t row, Range columns, const float* x,
                          bool quantize);

/// Sum of partial sums as integers of 2^-32; counts those that fail.
int64_t PartialSumsReference(const WeightSample& w, int64_t row, Range columns, const float* x,
                             int64_t partial_columns, int64_t& failed);

/// x: [tokens, columns.count]; result: [tokens, rows.count]
std::vector<float> ProductReference(const WeightSample& w, Range rows, Range columns,
                                    const std::vector<float>& x, int64_t tokens,
                                    bool quantize = true);

std::vector<float> RandomFloats(int64_t count, uint32_t seed);

/// Equal bits, or both NaN.
void ExpectSameBits(const std::vector<float>& found, const std::vector<float>& expected,
                    const std::string& what);

/// A pool and memory, and products in one call.
class Rig {
 public:
  explicit Rig(int threads = 1) : pool(threads) {}

  PackedMatrix Pack(const WeightSample& w, Range rows, Range columns,
                    ActivationMode mode = ActivationMode::kQ8);
  PackedMatrix Pack(const WeightSample& w) { return Pack(w, {0, w.rows}, {0, w.columns}); }

  /// x: [tokens, columns]; result: [tokens, rows]
  std::vector<float> Product(Isa isa, const PackedMatrix& matrix, const std::vector<float>& x,
                             int64_t tokens);

  struct PartialSums {
    std::vector<int64_t> sums;    // [tokens, rows]
    std::vector<int64_t> failed;  // [tokens]
  };
  PartialSums ProductPartialSums(Isa isa, const PackedMatrix& matrix, const std::vector<float>& x,
                                 int64_t tokens, int64_t partial_columns);

  ThreadPool pool;
  Arena arena;
};

}  // namespace tandem::core
