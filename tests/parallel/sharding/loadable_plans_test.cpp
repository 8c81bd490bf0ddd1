// What the planner gives, the loader takes: every plan of many small shapes, run to the same bits
// as on one rank.

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>

#include "core/formats/model_file.h"
#include "fmt/format.h"
#include "parallel/sharding/shard_plan.h"
#include "tests/support/forward_runner.h"
#include "tests/support/tiny_model.h"

namespace tandem::parallel {
namespace {

/// Logits of three tokens at the largest number of ranks that the model allows, at 2, and with
/// uneven speeds: those of one rank.
void ExpectEveryPlanRuns(const testing::TinyModelSpec& spec) {
  SCOPED_TRACE(fmt::format("{} heads on {} KV heads of {}, width {}, vocabulary {}", spec.heads,
                           spec.kv_heads, spec.head_dim, spec.ffn_dim, spec.vocab));
  const std::vector<std::byte> bytes = testing::TinyModel(spec);
  const auto file = core::ModelFile::OpenBuffer(bytes, "tiny");
  ASSERT_TRUE(file.ok()) << file.status();
  const std::vector<int32_t> tokens = {0, spec.vocab - 1, spec.vocab / 2};
  const auto alone = testing::RunForward(**file, tokens, {});
  ASSERT_TRUE(alone.ok()) << alone.status();
  const int largest = std::min(LargestRankCount((*file)->config()), 8);
  for (int ranks = 2; ranks <= largest; ranks = ranks < largest ? largest : ranks + 1) {
    for (const bool uneven : {false, true}) {
      testing::ForwardOptions options{.ranks = ranks};
      if (uneven) {
        options.weights.assign(static_cast<size_t>(ranks), 1);
        options.weights.front() = 50;
      }
      const auto found = testing::RunForward(**file, tokens, options);
      ASSERT_TRUE(found.ok()) << ranks << " ranks, uneven " << uneven << ": " << found.status();
      ASSERT_EQ(found->logits.size(), alone->logits.size());
      EXPECT_EQ(std::memcmp(found->logits.data(), alone->logits.data(),
                            alone->logits.size() * sizeof(float)),
                0)
          << ranks << " ranks, uneven " << uneven;
    }
  }
}

TEST(LoadablePlans, OddWidthsOfTheFeedForward) {
  for (const int width : {1, 2, 31, 32, 33, 63, 64, 65, 96, 100, 127, 129, 160, 191, 193, 250}) {
    for (const int heads : {2, 3, 5, 8}) {
      ExpectEveryPlanRuns({.layers = 1,
                           .dim = 32,
                           .ffn_dim = width,
                           .heads = heads,
                           .kv_heads = 1,
                           .head_dim = 32,
                           .vocab = 40});
    }
  }
}

TEST(LoadablePlans, HeadsOfOddSizes) {
  for (const int head_dim : {2, 6, 10, 16, 20, 34, 48}) {
    for (const int heads : {1, 2, 3, 4, 6, 7, 12}) {
      for (const int kv_heads : {1, 2, 3, heads}) {
        if (heads % kv_heads != 0) continue;
        ExpectEveryPlanRuns({.layers = 1,
                             .dim = 32,
                             .ffn_dim = 40,
                             .heads = heads,
                             .kv_heads = kv_heads,
                             .head_dim = head_dim,
                             .vocab = 40});
      }
    }
  }
}

TEST(LoadablePlans, SmallVocabulariesAndQuantizedRows) {
  for (const int vocab : {1, 2, 15, 16, 17, 31, 33, 100}) {
    for (const core::DType dtype : {core::DType::kF16, core::DType::kQ4_0, core::DType::kQ4_K}) {
      ExpectEveryPlanRuns({.layers = 1,
                           .dim = 64,
                           .ffn_dim = 320,
                           .heads = 6,
                           .kv_heads = 3,
                           .head_dim = 32,
                           .vocab = vocab,
                           .dtype = dtype,
                           .embedding_dtype = dtype});
    }
  }
}

}  // namespace
}  // namespace tandem::parallel
