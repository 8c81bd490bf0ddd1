#include <algorithm>

#include "core/cpu/linear/linear.h"
#include "core/cpu/linear/quantize_kernel.h"

namespace tandem::core {
namespace {

// Below this many values the threads cost more than they bring.
constexpr int64_t kParallelValues = 32768;

QuantizeKernel KernelOf(Isa isa) {
  switch (isa) {
    case Isa::kAvx512:
      return QuantizeAvx512;
    case Isa::kAvx2:
      return QuantizeAvx2;
    case Isa::kScalar:
      break;
  }
  return QuantizeScalar;
}

}  // namespace

void Activations::Assign(Isa isa, const FloatRows& x, bool quantize, ThreadPool& pool) {
  x_ = x.data;
  tokens_ = x.tokens;
  columns_ = x.columns;
  stride_ = x.stride;
  blocks_ = (x.columns + kBlockColumns - 1) / kBlockColumns;
  quantized_ = quantize;
  if (!quantize || x.tokens == 0 || x.columns == 0) return;

  MakeRoom();
  const auto quantize_group = [&](int64_t group, int) {
    QuantizePart(isa, group, 0, x.columns, x.data + group * kGroupTokens * x.stride, x.stride);
  };
  if (x.tokens * x.columns < kParallelValues) {
    for (int64_t group = 0; group < groups(); ++group) quantize_group(group, 0);
  } else {
    pool.ParallelFor(groups(), quantize_group);
  }
}

void Activations::Reserve(int64_t tokens, int64_t columns) {
  x_ = nullptr;
  tokens_ = tokens;
  columns_ = columns;
  stride_ = 0;
  blocks_ = (columns + kBlockColumns - 1) / kBlockColumns;
  quantized_ = true;
  MakeRoom();
}

void Activations::MakeRoom() {
  const auto cells = static_cast<size_t>(tokens_ * blocks_);
  if (scales_.size() >= cells) return;
  codes_.resize(cells * kBlockColumns);
  scales_.resize(cells);
  negative_sums_.resize(cells * 3);
  float_sums_.resize(cells * 3);
}

void Activations::QuantizePart(Isa isa, int64_t group, int64_t first_column, int64_t columns,
                               const float* x, int64_t stride) {
  static_assert(kQuantizedTogether == kGroupTokens);
  const int64_t first = group * kGroupTokens;
  QuantizedRow row;
  row.group_tokens = std::min(kGroupTokens, tokens_ - first);
  const int64_t at = first * blocks_ + first_column / kBlockColumns * row.group_tokens;
  row.codes = codes_.data() + at * kBlockColumns;
  row.scales = scales_.data() + at;
  row.negative_sums = negative_sums_.data() + at * 3;
  row.float_sums = float_sums_.data() + at * 3;
  if (isa == Isa::kAvx512 && row.group_tokens == kGroupTokens) {
    return QuantizeGroupAvx512(x, stride, columns, row);
  }
  const QuantizeKernel kernel = KernelOf(isa);
  const int64_t tokens = row.group_tokens;
  for (int64_t t = 0; t < tokens; ++t) {
    kernel(x + t * stride, columns, row);
    row.codes += kBlockColumns;
    ++row.scales;
    ++row.negative_sums;
    ++row.float_sums;
  }
}

Activations::Group Activations::group(int64_t index) const {
  const int64_t first = index * kGroupTokens;
  const int64_t at = first * blocks_;
  return {std::min(kGroupTokens, tokens_ - first), codes_.data() + at * kBlockColumns,
          scales_.data() + at, negative_sums_.data() + at * 3, float_sums_.data() + at * 3};
}

}  // namespace tandem::core
