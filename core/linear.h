#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/isa.h"
#include "core/packed_matrix.h"
#include "core/thread_pool.h"

namespace tandem::core {

/// Input rows of a product: the floats, and their 8-bit codes (numerics.md, rule 2) where quantized
/// weights will want them. Buffers are kept from call to call.
class Activations {
 public:
  /// x: [tokens, columns] with `stride` floats from row to row; must outlive the products. Codes
  /// are made if `quantize`.
  void Assign(Isa isa, const float* x, int64_t tokens, int64_t columns, int64_t stride,
              bool quantize, ThreadPool& pool);

  int64_t tokens() const { return tokens_; }
  int64_t columns() const { return columns_; }
  int64_t blocks() const { return blocks_; }
  const float* row(int64_t token) const { return x_ + token * stride_; }
  const int8_t* codes(int64_t token) const {
    return codes_.data() + token * blocks_ * kBlockColumns;
  }  // [blocks, 32]
  const float* scales(int64_t token) const { return scales_.data() + token * blocks_; }  // [blocks]
  const int32_t* sums(int64_t token) const {
    return sums_.data() + token * blocks_ * 2;
  }  // [blocks, 2] of 16 columns each

 private:
  const float* x_ = nullptr;
  int64_t tokens_ = 0;
  int64_t columns_ = 0;
  int64_t stride_ = 0;
  int64_t blocks_ = 0;
  std::vector<int8_t> codes_;
  std::vector<float> scales_;
  std::vector<int32_t> sums_;
};

/// out[token, row] = sum over columns of weights[row, column] * x[token, column], in the order of
/// numerics.md, rules 1 and 2. out: [tokens, weights.rows()] with out_stride floats from row to
/// row. x.columns() == weights.columns().
void Linear(Isa isa, const PackedMatrix& weights, const Activations& x, float* out,
            int64_t out_stride, ThreadPool& pool);

/// The same product, summed leaf by leaf: every `leaf_columns` columns (a multiple of 32; the last
/// leaf may be short) give a float32, which is rounded to nearest even to a multiple of 2^-32 and
/// ADDED to sums[token, row] (rule 3). failed[token] is incremented (once or more) where a leaf is
/// not finite or its magnitude reaches 2^22; such a leaf adds 0. sums: [tokens, weights.rows()]
/// with sums_stride elements from row to row; failed: [tokens].
void LinearLeaves(Isa isa, const PackedMatrix& weights, const Activations& x, int64_t leaf_columns,
                  int64_t* sums, int64_t sums_stride, int64_t* failed, ThreadPool& pool);

/// One rounding from a sum of leaves to float32, directly (not through double).
float LeafSumToFloat(int64_t sum);

}  // namespace tandem::core
