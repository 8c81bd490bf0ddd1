#include "core/base/phase_times.h"

#include <gtest/gtest.h>

namespace tandem::core {
namespace {

TEST(PhaseClock, GivesTimeToTheInnermostScope) {
  int64_t now = 1000;
  PhaseClock clock([&now] { return now; });
  clock.BeginStep(0, 40);
  now += 2;  // of no scope
  {
    const PhaseScope attention(&clock, Phase::kAttention);
    now += 5;
    {
      const auto product = PhaseScope::Product(&clock);
      now += 7;
    }
    {
      const PhaseScope all_reduce(&clock, Phase::kAllReduce);
      now += 11;
    }
    now += 1;
  }
  now += 13;  // the next step's idle time, since nothing of this one comes after it
  clock.BeginStep(2, 2);
  {
    const PhaseScope feed_forward(&clock, Phase::kFeedForward);
    const auto product = PhaseScope::Product(&clock);
    now += 17;
  }
  now += 19;
  clock.BeginStep(2, 2);
  {
    const PhaseScope sampling(&clock, Phase::kSampling);
    now += 23;
  }

  const PhaseTimes prompts = clock.Steps(0);
  EXPECT_EQ(prompts.nanoseconds, (std::array<int64_t, kPhases>{13, 0, 2, 11, 0, 0}));
  EXPECT_EQ(prompts.product_nanoseconds, 7);
  EXPECT_EQ(prompts.steps, 1);
  EXPECT_EQ(prompts.tokens, 40);
  EXPECT_EQ(prompts.total_nanoseconds(), 26);

  const PhaseTimes decodes = clock.Steps(2);
  EXPECT_EQ(decodes.nanoseconds, (std::array<int64_t, kPhases>{0, 17, 0, 0, 23, 13 + 19}));
  EXPECT_EQ(decodes.product_nanoseconds, 17);
  EXPECT_EQ(decodes.steps, 2);
  EXPECT_EQ(decodes.tokens, 4);
  // Nothing is lost between the steps.
  EXPECT_EQ(prompts.total_nanoseconds() + decodes.total_nanoseconds(), now - 1000);

  EXPECT_EQ(clock.Steps(1), PhaseTimes{});
}

TEST(PhaseClock, MeasuresNothingWithoutAClockOrBeforeAStep) {
  {
    const PhaseScope scope(nullptr, Phase::kAttention);
    const auto product = PhaseScope::Product(nullptr);
  }
  PhaseClock clock;
  { const PhaseScope scope(&clock, Phase::kAttention); }
  clock.BeginStep(1, 1);
  EXPECT_EQ(clock.Steps(1).total_nanoseconds(), 0);
}

TEST(PhaseClock, ByItselfReadsATimeThatGoesOn) {
  PhaseClock clock;
  clock.BeginStep(1, 1);
  while (clock.Steps(1)[Phase::kVocabulary] == 0) {
    const PhaseScope scope(&clock, Phase::kVocabulary);
  }
  EXPECT_GT(clock.Steps(1).total_nanoseconds(), 0);
}

TEST(PhaseTimes, AddUp) {
  PhaseTimes a{
      .nanoseconds = {1, 2, 3, 4, 5, 6}, .product_nanoseconds = 3, .steps = 1, .tokens = 7};
  const PhaseTimes b{
      .nanoseconds = {10, 20, 30, 40, 50, 60}, .product_nanoseconds = 30, .steps = 2, .tokens = 70};
  a += b;
  EXPECT_EQ(a, (PhaseTimes{.nanoseconds = {11, 22, 33, 44, 55, 66},
                           .product_nanoseconds = 33,
                           .steps = 3,
                           .tokens = 77}));
  EXPECT_EQ(a.total_nanoseconds(), 11 + 22 + 33 + 44 + 55 + 66);
}

}  // namespace
}  // namespace tandem::core
