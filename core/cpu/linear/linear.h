#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/base/isa.h"
#include "core/base/thread_pool.h"
#include "core/cpu/linear/packed_matrix.h"
#include "core/model/config.h"

namespace tandem::core {

/// Rows of floats that stand somewhere: [tokens, columns], `stride` floats from row to row.
struct FloatRows {
  const float* data = nullptr;
  int64_t tokens = 0;
  int64_t columns = 0;
  int64_t stride = 0;
};

/// Input rows of a product: the floats, and their 8-bit codes (numerics.md, rule 2) where quantized
/// weights will want them. Buffers are kept from call to call. Thread safety: one thread calls
/// Assign and Reserve; products only read.
///
/// Per token and block of 32 columns, zero-padded at the end: with amax the largest magnitude,
/// code = rint(x * (127 / amax)) to nearest even and scale = amax / 127, all in float32. Where amax
/// is 0, or so small that 127 / amax is not finite, codes and scale are 0. Where a value of the
/// block is infinite or NaN, the codes are 0 and the scale is NaN: every product with the block is
/// NaN, as it would be in floats.
class Activations {
 public:
  /// Tokens whose codes lie together, so that a kernel addresses all of them from one pointer. With
  /// `tokens` of them (fewer only in the last group):
  struct Group {
    int64_t tokens = 0;
    const int8_t* codes = nullptr;  // [blocks][tokens][32]
    const float* scales = nullptr;  // [blocks][tokens]
    // Sums of codes: of columns 0 to 15 of the block, of 16 to 31, of all. As integers they are
    // negated, because kernels begin with them to remove zero points.
    const int32_t* negative_sums = nullptr;  // [blocks][3][tokens]
    const float* float_sums = nullptr;       // [blocks][3][tokens]
  };
  static constexpr int64_t kGroupTokens = 8;

  /// x must outlive the products. Codes are made if `quantize`.
  void Assign(Isa isa, const FloatRows& x, bool quantize, ThreadPool& pool);

  /// Instead of Assign, for rows that come in parts and are wanted as codes only: makes room, after
  /// which every block must be given to QuantizePart. row() has nothing to give.
  void Reserve(int64_t tokens, int64_t columns);
  /// Columns [first_column, first_column + columns) of the tokens of a group; first_column is a
  /// multiple of 32, and so is `columns` but at the end of the row. x: [tokens, columns] with
  /// `stride` floats from row to row. Different parts may be given on different threads.
  void QuantizePart(Isa isa, int64_t group, int64_t first_column, int64_t columns, const float* x,
                    int64_t stride);

  int64_t tokens() const { return tokens_; }
  int64_t columns() const { return columns_; }
  int64_t blocks() const { return blocks_; }
  bool quantized() const { return quantized_; }
  const float* row(int64_t token) const { return x_ + token * stride_; }
  int64_t stride() const { return stride_; }
  int64_t groups() const { return (tokens_ + kGroupTokens - 1) / kGroupTokens; }
  /// Tokens kGroupTokens * index and following. Only if quantized.
  Group group(int64_t index) const;

 private:
  void MakeRoom();

  const float* x_ = nullptr;
  int64_t tokens_ = 0;
  int64_t columns_ = 0;
  int64_t stride_ = 0;
  int64_t blocks_ = 0;
  bool quantized_ = false;
  std::vector<int8_t> codes_;
  std::vector<float> scales_;
  std::vector<int32_t> negative_sums_;
  std::vector<float> float_sums_;
};

/// One of several products with the same input. out: [tokens, weights->rows()] with out_stride
/// floats from row to row.
struct LinearJob {
  const PackedMatrix* weights = nullptr;
  float* out = nullptr;
  int64_t out_stride = 0;
};
inline constexpr size_t kMostLinearJobs = 4;

/// For each of up to kMostLinearJobs jobs, together:
/// out[token, row] = sum over columns of weights[row, column] * x[token, column], in the order of
/// numerics.md, rules 1 and 2.
///
/// Float weights: acc = fma(w, x, acc), columns ascending from acc = 0. Quantized weights, whose
/// value is s * (q - z) + o with codes q and zero point z (o = -m where the format subtracts a
/// minimum m), and activations a of scale sa: blocks of 32 columns ascending, in a block its halves
/// ascending where the format has a scale for each 16 columns, and for each
///
///     acc = fma(s * sa, float(S), acc),   S = sum of (q - z) * a, exact in int32
///     acc = fma(o * sa, float(A), acc),   A = sum of a; only for formats with an offset
///
/// The bits are the same for every Isa, thread count and number of tokens (NaN is NaN, of whatever
/// payload). x.columns() == weights->columns(), and x has codes if any weights are quantized.
void Linear(Isa isa, std::span<const LinearJob> jobs, const Activations& x, ThreadPool& pool);

/// The first two matrices of a gated feed-forward block, of the same shape.
struct GatedPair {
  Activation kind = Activation::kSilu;
  const PackedMatrix& gate;
  const PackedMatrix& up;
};

/// out[token, row] = activation(gate x)[token, row] * (up x)[token, row], bit for bit what two
/// products and GatedActivation (elementwise.h) give, without a pass over memory between them. out:
/// [tokens, gate.rows()] with out_stride floats from row to row.
void GatedLinear(Isa isa, const GatedPair& weights, const Activations& x, float* out,
                 int64_t out_stride, ThreadPool& pool);

/// The same, as codes for a product to follow: bit for bit what Assign makes of it.
void GatedLinear(Isa isa, const GatedPair& weights, const Activations& x, Activations& out,
                 ThreadPool& pool);

/// Where the partial sums of a product are added up.
struct PartialSumOutput {
  int64_t partial_columns = 0;  // of a partial sum
  int64_t* sums = nullptr;      // [tokens, rows], `stride` elements from row to row
  int64_t stride = 0;
  int64_t* failed = nullptr;  // [tokens]
};

/// The same product, summed partial sum by partial sum: every `partial_columns` columns (a multiple
/// of 32; the last partial sum may be short) give a float32, which is rounded to nearest even to a
/// multiple of 2^-32 and added up in sums[token, row] (rule 3). failed[token] is the number of rows
/// in which a partial sum is not finite or its magnitude reaches 2^22; such a partial sum adds 0.
void LinearPartialSums(Isa isa, const PackedMatrix& weights, const Activations& x,
                       const PartialSumOutput& out, ThreadPool& pool);

/// One rounding from a sum of partial sums to float32, directly (not through double).
float PartialSumToFloat(int64_t sum);

}  // namespace tandem::core
