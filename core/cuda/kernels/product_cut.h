#pragma once

#include <algorithm>
#include <cstdint>

#include "core/cpu/simd/host_device.h"

namespace tandem::core {

/// What a block of threads does at once, at most.
struct CutLimits {
  int64_t tiles = 1;
  int64_t tokens = 1;
  int64_t resident = 1;  // blocks of threads on a multiprocessor
};

/// A product as what can be divided: a row's fma chain is one thread's, so its columns are cut only
/// between partial sums (numerics.md, rule 3), which are added as integers.
struct CutProduct {
  int64_t tiles = 1;  // each at least 1
  int64_t tokens = 1;
  int64_t partials = 1;
  bool is_partial_sums = false;
};

/// How a product is divided over the blocks of threads of a GPU.
///
/// Tiles are in groups, tokens in parts. An item is a group, a part and a partial sum; items are
/// counted with partial sums first, then parts, then groups, so that blocks side by side read the
/// same weights. Each block takes the same number of items, or one more, which follow each other.
struct ProductCut {
  int64_t tiles = 0;
  int64_t groups = 0;
  int64_t parts = 0;
  int64_t partials = 0;
  int64_t processors = 1;
  int64_t blocks = 0;  // of threads

  TANDEM_HOST_DEVICE int64_t items() const { return groups * parts * partials; }
  TANDEM_HOST_DEVICE int64_t FirstTileOf(int64_t group) const { return tiles * group / groups; }
  /// Block b runs on multiprocessor b % processors, usually. So those of one have items that follow
  /// each other, and processors have the same number of items, too, or one more.
  TANDEM_HOST_DEVICE int64_t FirstItemOf(int64_t block) const {
    return items() * RankOf(block) / blocks;
  }
  TANDEM_HOST_DEVICE int64_t EndItemOf(int64_t block) const {
    return items() * (RankOf(block) + 1) / blocks;
  }
  /// Tiles times partial sums of the block that has most, at most.
  int64_t most() const { return (items() + blocks - 1) / blocks * ((tiles + groups - 1) / groups); }

 private:
  TANDEM_HOST_DEVICE int64_t RankOf(int64_t block) const {
    if (blocks <= processors) return block;
    return block % processors * (blocks / processors) + block / processors;
  }
};

/// The cut with the largest groups, which read activations least often, of those whose most is at
/// most an eighth above the least that any has.
inline ProductCut CutOf(const CutProduct& product, const CutLimits& limits, int64_t processors) {
  ProductCut cut{.tiles = product.tiles,
                 .groups = 0,
                 .parts = (product.tokens + limits.tokens - 1) / limits.tokens,
                 .partials = product.partials,
                 .processors = processors,
                 .blocks = 0};
  const int64_t each = cut.parts * cut.partials;  // items of a group
  const auto with = [&](int64_t group_tiles) {
    ProductCut tried = cut;
    tried.blocks = processors * limits.resident;
    tried.groups = (product.tiles + group_tiles - 1) / group_tiles;
    // More groups, where no block has more items for it.
    const int64_t rounds = (tried.items() + tried.blocks - 1) / tried.blocks;
    tried.groups = std::clamp(rounds * tried.blocks / each, tried.groups, product.tiles);
    if (tried.items() < processors) tried.blocks = tried.items();
    return tried;
  };
  int64_t least = INT64_MAX;
  for (int64_t tiles = 1; tiles <= limits.tiles; ++tiles) {
    least = std::min(least, with(tiles).most());
  }
  int64_t tiles = limits.tiles;
  while (with(tiles).most() * 8 > least * 9) --tiles;
  return with(tiles);
}

/// The forms of products on tensor cores.
enum class MatrixForm { kFewTokens, kSomeTokens, kManyTokens, kPartialSums };

inline constexpr CutLimits kFewTokensCut = {.tiles = 8, .tokens = 16};
inline constexpr CutLimits kSomeTokensCut = {.tiles = 8, .tokens = 64};
// A block of threads does more at once and needs fewer bytes for it: for products of many rows and
// tokens.
inline constexpr CutLimits kManyTokensCut = {.tiles = 8, .tokens = 64, .resident = 2};
// More than 16 tokens, whose totals take registers.
inline constexpr CutLimits kPartialSumsCut = {.tiles = 4, .tokens = 64};

/// The forms as a GPU has them, which may have room for fewer tiles than above.
struct MatrixForms {
  CutLimits few_tokens = kFewTokensCut;
  CutLimits some_tokens = kSomeTokensCut;
  CutLimits many_tokens = kManyTokensCut;
  CutLimits partial_sums = kPartialSumsCut;
};

struct MatrixCut {
  MatrixForm form = MatrixForm::kFewTokens;
  ProductCut cut;
};

/// The form for a product, and its cut.
inline MatrixCut ChooseCut(const CutProduct& product, int64_t processors,
                           const MatrixForms& forms) {
  const ProductCut few = CutOf(product, forms.few_tokens, processors);
  if (product.tokens <= forms.few_tokens.tokens) return {MatrixForm::kFewTokens, few};
  if (product.is_partial_sums) {
    return {MatrixForm::kPartialSums, CutOf(product, forms.partial_sums, processors)};
  }
  const ProductCut many = CutOf(product, forms.many_tokens, processors);
  // Not where its groups of eight do not fit.
  if (many.tiles >= 7 * many.groups && many.items() >= many.blocks) {
    return {MatrixForm::kManyTokens, many};
  }
  const ProductCut some = CutOf(product, forms.some_tokens, processors);
  // Few rows do not keep all processors busy: then parts of the tokens do, which read the weights
  // again.
  const bool leaves_idle = 2 * few.most() * forms.few_tokens.tokens <=
                           some.most() * std::min(product.tokens, forms.some_tokens.tokens);
  if (leaves_idle) return {MatrixForm::kFewTokens, few};
  return {MatrixForm::kSomeTokens, some};
}

}  // namespace tandem::core
