#include "parallel/schedule/drafter.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>

#include "parallel/schedule/draft_index.h"
#include "parallel/schedule/step_cost.h"
#include "tests/support/random.h"

namespace tandem::parallel {
namespace {

std::vector<int32_t> RandomTokens(testing::SplitMix& random, size_t count, uint64_t kinds) {
  std::vector<int32_t> tokens(count);
  for (int32_t& token : tokens) token = static_cast<int32_t>(random.Below(kinds));
  return tokens;
}

/// The slow reading of draft_index.h.
DraftIndex::Match LongestMatch(const std::vector<int32_t>& tokens) {
  DraftIndex::Match best;
  int candidates = 0;
  const auto n = static_cast<int32_t>(tokens.size());
  for (int32_t end = n - 1; end >= 2 && candidates < 32; --end) {  // where a match would end
    int32_t length = 0;
    while (length < end && length < DraftIndex::kLongestMatch &&
           tokens[static_cast<size_t>(end - 1 - length)] ==
               tokens[static_cast<size_t>(n - 1 - length)]) {
      ++length;
    }
    if (length < 2) continue;
    ++candidates;
    if (length > best.length) best = {.next = end, .length = length};
  }
  return best;
}

TEST(DraftIndex, FindsTheLongestMatchAndTheLatestOfThose) {
  testing::SplitMix random(1);
  for (const uint64_t kinds : {2, 3, 10, 40}) {
    std::vector<int32_t> tokens;
    DraftIndex index;
    EXPECT_EQ(index.Find().length, 0);
    for (const int32_t token : RandomTokens(random, 700, kinds)) {
      tokens.push_back(token);
      index.Append(token);
      const DraftIndex::Match expected = LongestMatch(tokens);
      const DraftIndex::Match found = index.Find();
      ASSERT_EQ(found.length, expected.length) << tokens.size() << " tokens of " << kinds;
      if (found.length > 0) {
        ASSERT_EQ(found.next, expected.next);
      }
    }
  }
}

TEST(DraftIndex, ContinuesPastTheEndWithItself) {
  DraftIndex index;
  for (const int32_t token : {9, 1, 2, 3, 1, 2, 3, 1, 2}) index.Append(token);
  const DraftIndex::Match match = index.Find();
  EXPECT_EQ(match.length, 5);
  EXPECT_EQ(match.next, 6);
  EXPECT_EQ(index.Continue(match, 8), (std::vector<int32_t>{3, 1, 2, 3, 1, 2, 3, 1}));
}

TEST(StepCost, LearnsTheLineThroughNoise) {
  testing::SplitMix random(2);
  for (const double share : {0.05, 0.25, 0.6}) {
    StepCost cost;
    for (int i = 0; i < 400; ++i) {
      const auto tokens = static_cast<int32_t>(1 + random.Below(9));
      double seconds = 2e-3 * (1 - share + share * tokens);
      seconds *= 0.95 + 0.1 * random.Unit();
      if (random.Below(30) == 0) seconds *= 20;  // something else ran
      cost.Add(tokens, seconds);
    }
    EXPECT_NEAR(cost.Price(1), share, 0.08 + 0.2 * share) << share;
  }
}

TEST(StepCost, KeepsWhatItKnowsWhileStepsAreAllAlike) {
  StepCost cost;
  const double before = cost.Price(1);
  for (int i = 0; i < 1000; ++i) cost.Add(1, 3e-3);
  EXPECT_EQ(cost.Price(1), before);
  cost.Add(0, 1.0);
  cost.Add(1000, 1.0);
  cost.Add(1, 0.0);
  EXPECT_EQ(cost.Price(1), before);
}

TEST(StepCost, APriceRisesWithTheTokensOfTheStep) {
  const StepCost cost;
  for (int32_t tokens = 1; tokens < 600; ++tokens) {
    EXPECT_LT(cost.Price(tokens), cost.Price(tokens + 1));
  }
  EXPECT_LT(cost.Price(512), 1.0);
  EXPECT_GT(cost.Price(512), 0.99);
}

/// The time that an answer takes in steps of one sequence, against a step for each token, if one
/// more token costs `price` of a step.
struct Decoded {
  double time = 0;
  int64_t tokens = 0;
  int64_t drafted = 0;
  int64_t accepted = 0;
  Drafter drafter;

  double ratio() const { return time / static_cast<double>(tokens); }
};

/// `next` gives the answer's next token, knowing what was guessed for it (or nothing: no guess).
Decoded Decode(const std::vector<int32_t>& prompt, int64_t count, double price,
               const std::function<int32_t(const int32_t* guess)>& next) {
  Decoded run{.drafter = Drafter(prompt)};
  while (run.tokens < count) {
    const std::vector<int32_t> drafts = run.drafter.Guess(Drafter::kMostDrafts, price);
    run.time += 1 + price * static_cast<double>(drafts.size());
    std::vector<int32_t> given;
    do {
      const size_t at = given.size();
      given.push_back(next(at < drafts.size() ? &drafts[at] : nullptr));
      if (at >= drafts.size() || drafts[at] != given[at]) break;
    } while (true);
    run.tokens += static_cast<int64_t>(given.size());
    run.drafted += static_cast<int64_t>(drafts.size());
    run.accepted += static_cast<int64_t>(given.size()) - 1;
    run.drafter.Take(given, static_cast<int32_t>(drafts.size()),
                     static_cast<int32_t>(given.size()) - 1);
  }
  return run;
}

TEST(Drafter, ACopiedTextTakesFewSteps) {
  testing::SplitMix random(3);
  const std::vector<int32_t> text = RandomTokens(random, 400, 30000);
  size_t at = 0;
  const Decoded run = Decode(text, 398, 0.3, [&](const int32_t*) { return text[at++ % 400]; });
  EXPECT_LT(run.ratio(), 0.45);  // all right: (1 + 16 * 0.3) / 17 = 0.34
  EXPECT_GT(run.accepted, 300);
  EXPECT_LE(run.accepted, run.drafted);
}

TEST(Drafter, ACopyWithChangesPaysStill) {
  testing::SplitMix random(4);
  const std::vector<int32_t> text = RandomTokens(random, 4000, 30000);
  size_t at = 0;
  const Decoded run = Decode(text, 3000, 0.3, [&](const int32_t*) {
    return random.Below(10) == 0 ? static_cast<int32_t>(random.Below(30000)) : text[at++];
  });
  EXPECT_LT(run.ratio(), 0.8);
}

TEST(Drafter, WhereNothingRepeatsItCostsNothing) {
  testing::SplitMix random(5);
  const Decoded run = Decode(RandomTokens(random, 500, 1 << 30), 1000, 0.3, [&](const int32_t*) {
    return static_cast<int32_t>(random.Below(1 << 30));
  });
  EXPECT_EQ(run.drafted, 0);
}

TEST(Drafter, NeverCostsMoreThanItsAllowance) {
  // Texts of few kinds of tokens match all the time, and hardly ever rightly; the adversary lets
  // guesses be right while they are short and none afterwards, or never.
  testing::SplitMix random(6);
  for (const double price : {0.05, 0.3, 0.9}) {
    for (const uint64_t kinds : {2, 20, 100}) {
      const auto prompt = RandomTokens(random, 300, kinds);
      const auto check = [&](const char* what, const Decoded& run) {
        const double allowed =
            1 + Drafter::kAllowance + Drafter::kFirstAllowance / static_cast<double>(run.tokens);
        EXPECT_LE(run.ratio(), allowed) << what << ", price " << price << ", kinds " << kinds;
      };
      const auto any = [&] { return static_cast<int32_t>(random.Below(kinds)); };
      check("random", Decode(prompt, 500, price, [&](const int32_t*) { return any(); }));
      const auto wrong = [&](const int32_t* guess) {
        return guess != nullptr ? (*guess + 1) % static_cast<int32_t>(kinds) : any();
      };
      check("always wrong", Decode(prompt, 500, price, wrong));
      int64_t given = 0;
      check("right at first", Decode(prompt, 500, price, [&](const int32_t* guess) {
              return ++given < 100 && guess != nullptr ? *guess : wrong(guess);
            }));
    }
  }
}

TEST(Drafter, ComesBackWhenTheTextRepeatsAgain) {
  testing::SplitMix random(7);
  std::vector<int32_t> said;
  const auto prompt = RandomTokens(random, 100, 30000);
  int64_t given = 0;
  size_t at = 0;
  const Decoded run = Decode(prompt, 1000, 0.3, [&](const int32_t*) {
    // 600 tokens of short patterns that are always continued differently, then a copy of them.
    if (++given <= 600) {
      said.push_back(static_cast<int32_t>(random.Below(40)));
      return said.back();
    }
    return said[at++];
  });
  EXPECT_LT(run.time, 600 * 1.03 + 400 * 0.6);
}

TEST(Drafter, IsHopefulWhereADraftWouldPayBehindTheNextToken) {
  testing::SplitMix random(8);
  const std::vector<int32_t> text = RandomTokens(random, 50, 30000);
  Drafter drafter(text);
  EXPECT_FALSE(drafter.Hopeful(0.3));
  for (size_t i = 0; i < 20; ++i) drafter.Take(std::span(&text[i], 1), 0, 0);
  EXPECT_TRUE(drafter.Hopeful(0.3));
  EXPECT_EQ(drafter.Guess(3, 0.3), (std::vector<int32_t>(text.begin() + 20, text.begin() + 23)));
}

TEST(Drafter, TakesNoMoreThanItIsAllowed) {
  const std::vector<int32_t> text = {1, 2, 3, 1, 2, 3, 1, 2};
  Drafter drafter(text);
  EXPECT_TRUE(drafter.Guess(0, 0.01).empty());
  EXPECT_LE(drafter.Guess(5, 0.01).size(), 5U);
}

}  // namespace
}  // namespace tandem::parallel
