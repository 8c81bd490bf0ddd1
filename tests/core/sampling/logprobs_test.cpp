#include "core/sampling/logprobs.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "core/base/double_math.h"
#include "core/cpu/elementwise/elementwise.h"
#include "tests/core/sampling/sampling_ranks.h"
#include "tests/support/logprobs.h"
#include "tests/support/random.h"

namespace tandem::core {
namespace {

using ::tandem::testing::FarLogits;
using ::tandem::testing::LogitsOfRank;
using ::tandem::testing::LogprobsOf;
using ::tandem::testing::MakeInMemory;
using ::tandem::testing::MakeLogitsOfRank;
using ::tandem::testing::NearLogits;

/// Logits with many exact ties; `spread` apart at most.
std::vector<float> SpreadLogits(size_t vocab, uint64_t seed, float spread = 32.0F) {
  testing::SplitMix random(seed);
  std::vector<float> logits(vocab);
  for (float& logit : logits) logit = std::round((random.Unit() - 0.5F) * spread * 8.0F) / 8.0F;
  return logits;
}

/// The slow reading of logprobs.h: one row after the other.
TokenLogprobs Reference(const std::vector<float>& logits, int32_t chosen, size_t top) {
  const float max = *std::max_element(logits.begin(), logits.end());
  double total = 0.0;
  for (size_t begin = 0; begin < logits.size(); begin += 1024) {
    double lanes[16] = {};
    for (size_t row = begin; row < std::min(begin + 1024, logits.size()); ++row) {
      lanes[row % 16] += static_cast<double>(Exp(logits[row] - max));
    }
    for (size_t half = 8; half > 0; half /= 2) {
      for (size_t i = 0; i < half; ++i) lanes[i] += lanes[i + half];
    }
    total += lanes[0];
  }
  const auto of = [&](int32_t token) {
    const double x = logits[static_cast<size_t>(token)];
    return TokenLogprob{token, static_cast<float>((x - max) - Log(total))};
  };
  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    return logits[static_cast<size_t>(a)] > logits[static_cast<size_t>(b)];
  });
  TokenLogprobs result{.chosen = of(chosen), .top = {}};
  for (size_t i = 0; i < std::min(top, order.size()); ++i) result.top.push_back(of(order[i]));
  return result;
}

TEST(Logprobs, HasTheBitsOfTheObviousLoop) {
  testing::SplitMix random(1);
  for (const size_t vocab : {size_t{1}, size_t{2}, size_t{15}, size_t{16}, size_t{17}, size_t{211},
                             size_t{1024}, size_t{1039}, size_t{32000}, size_t{49152}}) {
    for (const size_t top : {size_t{0}, size_t{1}, size_t{5}, size_t{64}}) {
      const std::vector<float> logits = SpreadLogits(vocab, vocab + top);
      const auto chosen = static_cast<int32_t>(random.Below(vocab));
      const auto found = LogprobsOf(logits, chosen, static_cast<int32_t>(top));
      ASSERT_TRUE(found.has_value());
      EXPECT_EQ(*found, Reference(logits, chosen, top)) << vocab << " rows, " << top << " best";
    }
  }
}

TEST(Logprobs, IsTheLogarithmOfTheSoftmax) {
  for (const float spread : {0.0F, 1.0F, 32.0F, 200.0F}) {
    const std::vector<float> logits = SpreadLogits(5000, 3, spread);
    const double max = *std::max_element(logits.begin(), logits.end());
    double sum = 0.0;
    for (const float logit : logits) sum += std::exp(logit - max);
    for (int32_t token = 0; token < 5000; token += 97) {
      const double exact = logits[static_cast<size_t>(token)] - max - std::log(sum);
      const auto found = LogprobsOf(logits, token, 0);
      ASSERT_TRUE(found.has_value());
      // exp is good to 1 ulp, the result is rounded once.
      EXPECT_NEAR(found->chosen.logprob, exact, 0x1p-23 * (1.0 + std::fabs(exact)));
    }
  }
}

TEST(Logprobs, AreNegativeOrZeroAndAddUpToOne) {
  std::vector<float> logits = SpreadLogits(211, 4, 6.0F);
  const auto all = LogprobsOf(logits, 7, 211);
  ASSERT_TRUE(all.has_value());
  ASSERT_EQ(all->top.size(), 211U);
  double sum = 0.0;
  for (const TokenLogprob& token : all->top) {
    EXPECT_LE(token.logprob, 0.0F);
    sum += std::exp(token.logprob);
  }
  EXPECT_NEAR(sum, 1.0, 1e-6);
  EXPECT_EQ(LogprobsOf(std::vector<float>{3.0F}, 0, 5)->chosen.logprob, 0.0F);
}

TEST(Logprobs, ShiftedLogitsWithHugeDifferencesStayFinite) {
  const std::vector<float> logits = {-3e38F, 0.0F, 3e38F};
  const auto found = LogprobsOf(logits, 0, 3);
  ASSERT_TRUE(found.has_value());
  EXPECT_EQ(found->top[0], (TokenLogprob{2, 0.0F}));
  EXPECT_EQ(found->top[1], (TokenLogprob{1, -3e38F}));
  // The difference is beyond float32; it says so by the lowest number there is, which JSON can
  // hold.
  EXPECT_EQ(found->chosen.logprob, std::numeric_limits<float>::lowest());
}

TEST(Logprobs, NothingForLogitsThatAreNotFinite) {
  for (const float bad :
       {std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity(),
        std::numeric_limits<float>::quiet_NaN()}) {
    std::vector<float> logits = SpreadLogits(300, 5);
    logits[299] = bad;
    EXPECT_FALSE(LogprobsOf(logits, 0, 3).has_value());
  }
}

/// By ranks that are threads, whose shards have these sizes: of each rank.
std::vector<std::vector<TokenScore>> ScoreOnRanks(const std::vector<float>& logits, int64_t vocab,
                                                  std::vector<ScoreRow> rows,
                                                  const std::vector<int64_t>& shards,
                                                  const MakeLogitsOfRank& make) {
  for (ScoreRow& row : rows) row.largest_shard = *std::max_element(shards.begin(), shards.end());
  std::vector<std::vector<TokenScore>> found(shards.size(), std::vector<TokenScore>(rows.size()));
  testing::OnRanks(
      logits, vocab, shards, make, [&](size_t rank, ShardLogits& of_rank, Collective& world) {
        return ScoreRows(rows, of_rank, world, {}, testing::OneAfterTheOther, found[rank]);
      });
  return found;
}

TEST(Logprobs, AreTheSameForEveryCut) {
  testing::SplitMix random(6);
  for (const int64_t vocab : {3, 1023, 1024, 1025, 3001, 5003}) {
    std::vector<float> logits;
    std::vector<ScoreRow> rows;
    std::vector<TokenScore> expected;
    for (int64_t row = 0; row < 4; ++row) {
      const std::vector<float> of_row =
          SpreadLogits(static_cast<size_t>(vocab), static_cast<uint64_t>(100 * row + vocab));
      logits.insert(logits.end(), of_row.begin(), of_row.end());
    }
    logits.back() = std::numeric_limits<float>::quiet_NaN();  // the last row fails
    for (const int64_t row : {2, 0, 3, 1, 0}) {
      const auto token = static_cast<int32_t>(random.Below(static_cast<uint64_t>(vocab)));
      const int32_t top = std::vector<int32_t>{0, 1, 5, 64}[random.Below(4)];
      rows.push_back({.row = row, .token = token, .top = top});
      const auto first = logits.begin() + row * vocab;
      expected.emplace_back();
      if (row < 3) {
        expected.back() = Reference({first, first + vocab}, token, static_cast<size_t>(top));
      }
    }
    for (const std::vector<int64_t>& cut : testing::VocabularyCuts(vocab)) {
      for (const auto& make : {MakeInMemory<NearLogits>, MakeInMemory<FarLogits>}) {
        for (const auto& of_rank : ScoreOnRanks(logits, vocab, rows, cut, make)) {
          EXPECT_EQ(of_rank, expected) << vocab << " rows on " << cut.size() << " ranks";
        }
      }
    }
  }
}

TEST(Logprobs, WithoutRowsNoCollectiveIsCalled) {
  class NoCollective final : public Collective {
   public:
    int rank() const override { return 0; }
    int size() const override { return 2; }
    absl::Status AllReduceSum(std::span<int64_t>, const StepPhase&) override {
      return Internal("called");
    }
    absl::Status AllGather(std::span<const std::byte>, std::span<std::byte>,
                           const StepPhase&) override {
      return Internal("called");
    }
  } collective;
  HostLogits logits(nullptr, {0, 10}, testing::OneAfterTheOther);
  EXPECT_TRUE(ScoreRows({}, logits, collective, {}, testing::OneAfterTheOther, {}).ok());
}

}  // namespace
}  // namespace tandem::core
