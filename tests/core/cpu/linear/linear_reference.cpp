#include "tests/core/cpu/linear/linear_reference.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <random>

namespace tandem::core {

std::vector<Isa> AllIsas() {
  std::vector<Isa> isas = {Isa::kScalar, Isa::kAvx2};
  if (BestIsa() == Isa::kAvx512) isas.push_back(Isa::kAvx512);
  return isas;
}

QuantizedBlock QuantizeReference(const float* x, int64_t count) {
  QuantizedBlock block;
  float amax = 0;
  for (int64_t i = 0; i < count; ++i) {
    if (!std::isfinite(x[i])) {
      block.scale = kNan;
      return block;
    }
    amax = std::max(amax, std::fabs(x[i]));
  }
  if (amax == 0 || !std::isfinite(127.0F / amax)) return block;
  block.scale = amax / 127.0F;
  const float inverse = 127.0F / amax;
  for (int64_t i = 0; i < count; ++i) {
    block.codes[i] = static_cast<int>(std::nearbyint(x[i] * inverse));
  }
  return block;
}

float PartialSumReference(const WeightSample& w, int64_t row, Range columns, const float* x,
                          bool quantize) {
  float acc = 0;
  const int64_t at = row * w.columns + columns.begin;
  if (w.group == 0 || !quantize) {
    for (int64_t c = 0; c < columns.count; ++c) {
      acc = std::fma(w.values[static_cast<size_t>(at + c)], x[c], acc);
    }
    return acc;
  }
  for (int64_t b = 0; b < columns.count; b += 32) {
    const QuantizedBlock block = QuantizeReference(x + b, std::min<int64_t>(32, columns.count - b));
    for (int64_t g = 0; g < 32; g += w.group) {
      int32_t products = 0;
      int32_t sum = 0;
      for (int64_t c = g; c < g + w.group; ++c) {
        products += w.codes[static_cast<size_t>(at + b + c)] * block.codes[c];
        sum += block.codes[c];
      }
      const auto scale = static_cast<size_t>((at + b + g) / w.group);
      acc = std::fma(w.scales[scale] * block.scale, static_cast<float>(products), acc);
      if (!w.offsets.empty()) {
        acc = std::fma(w.offsets[scale] * block.scale, static_cast<float>(sum), acc);
      }
    }
  }
  return acc;
}

int64_t PartialSumsReference(const WeightSample& w, int64_t row, Range columns, const float* x,
                             int64_t partial_columns, int64_t& failed) {
  int64_t sum = 0;
  for (int64_t c = 0; c < columns.count; c += partial_columns) {
    const Range partial{columns.begin + c, std::min(partial_columns, columns.count - c)};
    const float value = PartialSumReference(w, row, partial, x + c, true);
    if (!(std::fabs(value) < 4194304.0F)) {
      ++failed;
    } else {
      sum += static_cast<int64_t>(std::nearbyint(static_cast<double>(value) * 4294967296.0));
    }
  }
  return sum;
}

std::vector<float> ProductReference(const WeightSample& w, Range rows, Range columns,
                                    const std::vector<float>& x, int64_t tokens, bool quantize) {
  std::vector<float> out;
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t r = 0; r < rows.count; ++r) {
      out.push_back(
          PartialSumReference(w, rows.begin + r, columns, x.data() + t * columns.count, quantize));
    }
  }
  return out;
}

std::vector<float> RandomFloats(int64_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> floats(static_cast<size_t>(count));
  for (float& value : floats) value = normal(random);
  return floats;
}

void ExpectSameBits(const std::vector<float>& found, const std::vector<float>& expected,
                    const std::string& what) {
  ASSERT_EQ(found.size(), expected.size());
  for (size_t i = 0; i < found.size(); ++i) {
    if (std::isnan(found[i]) && std::isnan(expected[i])) continue;
    ASSERT_EQ(std::bit_cast<uint32_t>(found[i]), std::bit_cast<uint32_t>(expected[i]))
        << what << ", element " << i << ": " << found[i] << " for " << expected[i];
  }
}

PackedMatrix Rig::Pack(const WeightSample& w, Range rows, Range columns, ActivationMode mode) {
  absl::StatusOr<PackedMatrix> packed =
      PackedMatrix::Pack(w.source(), rows, columns, mode, arena, pool);
  EXPECT_TRUE(packed.ok()) << packed.status();
  return packed.ok() ? *packed : PackedMatrix();
}

std::vector<float> Rig::Product(Isa isa, const PackedMatrix& matrix, const std::vector<float>& x,
                                int64_t tokens) {
  Activations activations;
  activations.Assign(isa, {x.data(), tokens, matrix.columns(), matrix.columns()},
                     matrix.quantized(), pool);
  std::vector<float> out(static_cast<size_t>(tokens * matrix.rows()), -1.0F);
  const LinearJob job = {&matrix, out.data(), matrix.rows()};
  Linear(isa, {&job, 1}, activations, pool);
  return out;
}

Rig::PartialSums Rig::ProductPartialSums(Isa isa, const PackedMatrix& matrix,
                                         const std::vector<float>& x, int64_t tokens,
                                         int64_t partial_columns) {
  Activations activations;
  activations.Assign(isa, {x.data(), tokens, matrix.columns(), matrix.columns()},
                     matrix.quantized(), pool);
  PartialSums partials;
  partials.sums.resize(static_cast<size_t>(tokens * matrix.rows()));
  partials.failed.resize(static_cast<size_t>(tokens));
  LinearPartialSums(isa, matrix, activations,
                    {partial_columns, partials.sums.data(), matrix.rows(), partials.failed.data()},
                    pool);
  return partials;
}

}  // namespace tandem::core
