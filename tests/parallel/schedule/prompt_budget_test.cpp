#include "parallel/schedule/prompt_budget.h"

#include <gtest/gtest.h>

#include "parallel/engine/fair_share.h"
#include "tests/support/random.h"

namespace tandem::parallel {
namespace {

/// Steps of a machine on which a token costs what it costs.
double Seconds(int32_t decoding, int32_t prompt, double each) {
  return 0.004 + 0.001 * decoding + each * prompt;
}

TEST(PromptBudget, StartsSmallAndFindsWhatFits) {
  PromptBudget budget(512);
  EXPECT_EQ(budget.Tokens(1, 1), PromptBudget::kFirst);
  for (int i = 0; i < 5; ++i) budget.Add(1, 0, Seconds(1, 0, 0));
  EXPECT_EQ(budget.Tokens(1, 1), PromptBudget::kFirst);
  int32_t largest = 0;
  for (int i = 0; i < 20; ++i) {
    const int32_t tokens = budget.Tokens(1, 1);
    largest = std::max(largest, tokens);
    budget.Add(1, tokens, Seconds(1, tokens, 0.0001));
  }
  // 1.4 * 5 ms of 0.1 ms each.
  EXPECT_NEAR(budget.Tokens(1, 1), 70, 1);
  EXPECT_LE(largest, 71);
  // More streams: longer steps, more room.
  for (int i = 0; i < 5; ++i) budget.Add(16, 0, Seconds(16, 0, 0));
  EXPECT_NEAR(budget.Tokens(16, 1), 280, 2);
}

TEST(PromptBudget, EachPromptGetsTheRoomOfOne) {
  PromptBudget budget(512);
  for (int i = 0; i < 5; ++i) budget.Add(2, 0, Seconds(2, 0, 0));
  for (int i = 0; i < 20; ++i) budget.Add(2, 8, Seconds(2, 8, 0.0005));
  const double one = (PromptBudget::kMostStretch - 1) * Seconds(2, 0, 0) / 0.0005;
  EXPECT_NEAR(budget.Tokens(2, 1), one, 1);
  EXPECT_NEAR(budget.Tokens(2, 10), 10 * one, 1);
  EXPECT_EQ(budget.Tokens(2, 100), 512);
}

TEST(PromptBudget, FollowsCostsThatGrowAndStandsNoise) {
  PromptBudget budget(512);
  testing::SplitMix random(1);
  for (int i = 0; i < 5; ++i) budget.Add(1, 0, Seconds(1, 0, 0));
  int long_steps = 0;
  for (int i = 0; i < 400; ++i) {
    const double each = 0.0001 + 0.000002 * i;
    const int32_t tokens = budget.Tokens(1, 1);
    const double seconds = Seconds(1, tokens, each);
    long_steps += seconds > 3 * Seconds(1, 0, 0) ? 1 : 0;
    // One step in ten is disturbed from outside.
    budget.Add(1, tokens, random.Below(10) == 0 ? 5 * seconds : seconds);
  }
  EXPECT_LE(long_steps, 3);
  EXPECT_GE(budget.Tokens(1, 1), PromptBudget::kLeast);
}

TEST(PromptBudget, KeepsWithinItsLimits) {
  PromptBudget small(4);
  EXPECT_EQ(small.Tokens(3, 1), 4);
  PromptBudget budget(512);
  for (int i = 0; i < 9; ++i) budget.Add(2, 0, 0.01);
  for (int i = 0; i < 20; ++i) budget.Add(2, 8, 0.01);  // prompt tokens cost nothing
  EXPECT_EQ(budget.Tokens(2, 1), 512);
  for (int i = 0; i < 9; ++i) budget.Add(2, 8, 10.0);
  EXPECT_EQ(budget.Tokens(2, 1), PromptBudget::kLeast);
}

TEST(FairShare, WhoComesBackHasNoCreditAndKeepsItsDebt) {
  FairShare turns;
  turns.Came(1);
  turns.Came(2);
  turns.Charge(1, 100);
  turns.Charge(2, 300);
  turns.Came(3);
  EXPECT_EQ(turns.served(3), 200) << "half of what both had";
  turns.Left(2);
  turns.Charge(1, 50);
  turns.Came(2);
  EXPECT_EQ(turns.served(2), 300);
  turns.Left(3);
  turns.Charge(1, 1000);
  turns.Came(3);
  EXPECT_EQ(turns.served(3), 725) << "225 when it left, and half of 1000";
}

TEST(FairShare, AFloodOfNamesIsDropped) {
  FairShare turns;
  turns.Came(0);
  for (uint64_t client = 1; client < 50'000; ++client) {
    turns.Came(client);
    turns.Charge(client, 10);
    turns.Left(client);
  }
  EXPECT_LE(turns.known(), 5000U);
}

}  // namespace
}  // namespace tandem::parallel
