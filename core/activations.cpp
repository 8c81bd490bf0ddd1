#include <algorithm>

#include "core/linear.h"
#include "core/quantize_kernel.h"

namespace tandem::core {
namespace {

// Below this many values the threads cost more than they bring.
constexpr int64_t kParallelValues = 32768;

}  // namespace

void Activations::Assign(Isa isa, const float* x, int64_t tokens, int64_t columns, int64_t stride,
                         bool quantize, ThreadPool& pool) {
  x_ = x;
  tokens_ = tokens;
  columns_ = columns;
  stride_ = stride;
  blocks_ = (columns + kBlockColumns - 1) / kBlockColumns;
  quantized_ = quantize;
  if (!quantize || tokens == 0 || columns == 0) return;

  const auto cells = static_cast<size_t>(tokens * blocks_);
  if (scales_.size() < cells) {
    codes_.resize(cells * kBlockColumns);
    scales_.resize(cells);
    negative_sums_.resize(cells * 3);
    float_sums_.resize(cells * 3);
  }
  const QuantizeKernel kernel = isa == Isa::kAvx512 ? QuantizeAvx512
                                : isa == Isa::kAvx2 ? QuantizeAvx2
                                                    : QuantizeScalar;
  const auto quantize_token = [&](int64_t token) {
    const int64_t first = token / kGroupTokens * kGroupTokens;
    const int64_t in_group = token - first;
    QuantizedRow row;
    row.group_tokens = std::min(kGroupTokens, tokens - first);
    row.codes = codes_.data() + (first * blocks_ + in_group) * kBlockColumns;
    row.scales = scales_.data() + first * blocks_ + in_group;
    row.negative_sums = negative_sums_.data() + first * blocks_ * 3 + in_group;
    row.float_sums = float_sums_.data() + first * blocks_ * 3 + in_group;
    kernel(x + token * stride, columns, row);
  };
  // By groups: tokens of one share lines of memory.
  const auto quantize_group = [&](int64_t group, int) {
    const int64_t end = std::min((group + 1) * kGroupTokens, tokens);
    for (int64_t token = group * kGroupTokens; token < end; ++token) quantize_token(token);
  };
  if (tokens * columns < kParallelValues) {
    for (int64_t group = 0; group < groups(); ++group) quantize_group(group, 0);
  } else {
    pool.ParallelFor(groups(), quantize_group);
  }
}

Activations::Group Activations::group(int64_t index) const {
  const int64_t first = index * kGroupTokens;
  const int64_t at = first * blocks_;
  return {std::min(kGroupTokens, tokens_ - first), codes_.data() + at * kBlockColumns,
          scales_.data() + at, negative_sums_.data() + at * 3, float_sums_.data() + at * 3};
}

}  // namespace tandem::core
