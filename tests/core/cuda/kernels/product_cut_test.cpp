#include "core/cuda/kernels/product_cut.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "fmt/format.h"

namespace tandem::core {
namespace {

/// What the blocks of threads of a cut have to do, in tiles times partial sums times parts.
struct Loads {
  std::vector<int64_t> blocks;
  std::vector<int64_t> processors;
  int64_t total = 0;
};

/// Also checks that each item is somebody's, and that no group is empty or too large.
Loads LoadsOf(const ProductCut& cut, const CutLimits& limits) {
  Loads loads{.blocks = std::vector<int64_t>(static_cast<size_t>(cut.blocks)),
              .processors = std::vector<int64_t>(static_cast<size_t>(cut.processors)),
              .total = 0};
  EXPECT_EQ(cut.FirstTileOf(0), 0);
  EXPECT_EQ(cut.FirstTileOf(cut.groups), cut.tiles);
  for (int64_t group = 0; group < cut.groups; ++group) {
    const int64_t tiles = cut.FirstTileOf(group + 1) - cut.FirstTileOf(group);
    EXPECT_GE(tiles, 1);
    EXPECT_LE(tiles, limits.tiles);
  }
  std::vector<std::pair<int64_t, int64_t>> ranges;
  for (int64_t block = 0; block < cut.blocks; ++block) {
    const int64_t first = cut.FirstItemOf(block);
    const int64_t end = cut.EndItemOf(block);
    ranges.emplace_back(first, end);
    for (int64_t item = first; item < end; ++item) {
      const int64_t group = item / (cut.parts * cut.partials);
      const int64_t tiles = cut.FirstTileOf(group + 1) - cut.FirstTileOf(group);
      loads.blocks[static_cast<size_t>(block)] += tiles;
      loads.processors[static_cast<size_t>(block % cut.processors)] += tiles;
      loads.total += tiles;
    }
  }
  std::sort(ranges.begin(), ranges.end());
  int64_t next = 0;
  for (const auto& [first, end] : ranges) {
    EXPECT_EQ(first, next);
    next = end;
  }
  EXPECT_EQ(next, cut.items());
  EXPECT_EQ(loads.total, cut.tiles * cut.parts * cut.partials);
  return loads;
}

int64_t CeilOf(int64_t a, int64_t b) { return (a + b - 1) / b; }

CutLimits LimitsOf(MatrixForm form, const MatrixForms& forms) {
  switch (form) {
    case MatrixForm::kFewTokens:
      return forms.few_tokens;
    case MatrixForm::kSomeTokens:
      return forms.some_tokens;
    case MatrixForm::kManyTokens:
      return forms.many_tokens;
    case MatrixForm::kPartialSums:
      return forms.partial_sums;
  }
  return {};
}

/// Of a GPU with little shared memory: groups of as many tiles.
MatrixForms SmallForms(int64_t tiles) {
  MatrixForms forms;
  for (CutLimits* limits : {&forms.few_tokens, &forms.some_tokens, &forms.many_tokens}) {
    limits->tiles = tiles;
  }
  forms.partial_sums.tiles = std::min(tiles, forms.partial_sums.tiles);
  return forms;
}

/// No block of threads, and no multiprocessor, has more than an eighth above its even share, but
/// for what the share is rounded up to.
void ExpectEven(const ProductCut& cut, const CutLimits& limits) {
  const Loads loads = LoadsOf(cut, limits);
  const int64_t most = *std::max_element(loads.blocks.begin(), loads.blocks.end());
  EXPECT_LE(most, cut.most());
  EXPECT_LE(most * 8, CeilOf(loads.total, cut.processors * limits.resident) * 9);
  const int64_t of_processor = *std::max_element(loads.processors.begin(), loads.processors.end());
  EXPECT_LE(of_processor * 8, CeilOf(loads.total, cut.processors) * 9 + 8 * (limits.resident - 1));
}

TEST(ProductCut, IsEvenForAnyShape) {
  for (const int64_t processors : {1, 2, 7, 108, 132}) {
    for (const int64_t tiles : {1, 2, 7, 8, 9, 36, 64, 96, 131, 132, 133, 265, 897, 8016}) {
      for (const int64_t partials : {1, 2, 9, 32, 57}) {
        for (const int64_t tokens : {9, 16, 17, 64, 65, 200}) {
          const CutProduct product = {.tiles = tiles,
                                      .tokens = tokens,
                                      .partials = partials,
                                      .is_partial_sums = partials > 1};
          SCOPED_TRACE(fmt::format("{} tiles, {} partial sums, {} tokens, {}", tiles, partials,
                                   tokens, processors));
          for (const int64_t most : {8, 6, 1}) {
            const MatrixForms forms = SmallForms(most);
            const MatrixCut chosen = ChooseCut(product, processors, forms);
            ExpectEven(chosen.cut, LimitsOf(chosen.form, forms));
            if (most < kManyTokensCut.tiles) {
              EXPECT_NE(chosen.form, MatrixForm::kManyTokens);
            }
          }
        }
      }
    }
  }
}

struct NamedProduct {
  const char* name;
  int64_t rows;
  int64_t partials;  // 1: of all columns together
};

/// Of SmolLM2 135M, Llama 3.2 1B, 3.1 8B, and one of eight ranks of 70B; of query, key and value
/// together and each alone, as when types differ.
constexpr NamedProduct kProducts[] = {
    {"SmolLM2 query, key, value", 960, 1},
    {"SmolLM2 query", 576, 1},
    {"SmolLM2 key", 192, 1},
    {"SmolLM2 output", 576, 9},
    {"SmolLM2 gate, up", 3072, 1},
    {"SmolLM2 down", 576, 24},
    {"SmolLM2 vocabulary", 49152, 1},
    {"1B query, key, value", 3072, 1},
    {"1B query", 2048, 1},
    {"1B key", 512, 1},
    {"1B output", 2048, 32},
    {"1B gate, up", 16384, 1},
    {"1B down", 2048, 32},
    {"1B vocabulary", 128256, 1},
    {"8B query, key, value", 6144, 1},
    {"8B query", 4096, 1},
    {"8B key", 1024, 1},
    {"8B output", 4096, 32},
    {"8B gate, up", 28672, 1},
    {"8B down", 4096, 56},
    {"8B vocabulary", 128256, 1},
    {"70B/8 query, key, value", 1280, 1},
    {"70B/8 query", 1024, 1},
    {"70B/8 key", 128, 1},
    {"70B/8 output", 8192, 8},
    {"70B/8 gate, up", 7168, 1},
    {"70B/8 down", 8192, 14},
    {"70B/8 vocabulary", 16032, 1},
};

TEST(ProductCut, OfFewTokensIsEvenForAnyShape) {
  for (const int64_t processors : {1, 7, 132}) {
    for (const int64_t tiles : {1, 36, 64, 256, 512}) {
      for (const int64_t partials : {1, 9, 32, 56}) {
        for (const int64_t resident : {1, 2, 3, 4}) {
          SCOPED_TRACE(fmt::format("{} tiles, {} partial sums, {} blocks on each of {}", tiles,
                                   partials, resident, processors));
          const CutLimits limits = {.tiles = 1, .tokens = 8, .resident = resident};
          const ProductCut cut =
              CutOf({.tiles = tiles, .tokens = 8, .partials = partials, .is_partial_sums = true},
                    limits, processors);
          ExpectEven(cut, limits);
        }
      }
    }
  }
}

TEST(ProductCut, LeavesNoProcessorIdleOnTheShapesOfModels) {
  for (const int64_t processors : {108, 132, 148}) {  // A100, H100 and H200, B200
    for (const NamedProduct& named : kProducts) {
      for (const int64_t tokens : {9, 16, 17, 32, 64}) {
        SCOPED_TRACE(fmt::format("{}, {} tokens, {} processors", named.name, tokens, processors));
        const CutProduct product = {.tiles = CeilOf(named.rows, 16),
                                    .tokens = tokens,
                                    .partials = named.partials,
                                    .is_partial_sums = named.partials > 1};
        const MatrixCut chosen = ChooseCut(product, processors, {});
        ExpectEven(chosen.cut, LimitsOf(chosen.form, {}));
        const Loads loads = LoadsOf(chosen.cut, LimitsOf(chosen.form, {}));
        const int64_t most = *std::max_element(loads.processors.begin(), loads.processors.end());
        const double used =
            static_cast<double>(loads.total) / static_cast<double>(most * processors);
        // Where there is enough for all, nearly all are busy. That there are fewer tiles than
        // processors is the model's doing.
        if (loads.total >= 6 * processors) {
          EXPECT_GE(used, 0.85);
        }
      }
    }
  }
}

}  // namespace
}  // namespace tandem::core
