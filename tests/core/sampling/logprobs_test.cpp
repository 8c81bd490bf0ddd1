#include "core/sampling/logprobs.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "core/base/double_math.h"
#include "core/cpu/elementwise/elementwise.h"
#include "tests/support/random.h"

namespace tandem::core {
namespace {

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

}  // namespace
}  // namespace tandem::core
