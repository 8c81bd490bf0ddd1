#include "core/sampling/token_choice.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <vector>

#include "tests/support/random.h"

namespace tandem::core {
namespace {

using testing::SplitMix;

std::vector<std::pair<float, int32_t>> PairsOf(const std::vector<Candidate>& candidates) {
  std::vector<std::pair<float, int32_t>> pairs;
  for (const Candidate& candidate : candidates)
    pairs.emplace_back(candidate.logit, candidate.token);
  return pairs;
}

/// Of different tokens in no order; `kinds` of logits, of which zeros of both signs are two.
std::vector<Candidate> RandomCandidates(size_t count, uint64_t kinds, SplitMix& random) {
  std::vector<Candidate> candidates;
  for (size_t i = 0; i < count; ++i) {
    const uint64_t kind = random.Below(kinds);
    float logit = (static_cast<float>(kind) - static_cast<float>(kinds) / 2.0F) * 0.37F;
    if (kind == 0) logit = -0.0F;
    if (kind == 1) logit = 0.0F;
    if (kind == 2) logit = -std::numeric_limits<float>::max();
    if (kind == 3) logit = std::numeric_limits<float>::denorm_min();
    candidates.push_back({logit, static_cast<int32_t>(5 * i)});
  }
  for (size_t i = count; i > 1; --i) std::swap(candidates[i - 1], candidates[random.Below(i)]);
  return candidates;
}

TEST(SortBestFirst, IsTheOrderOfComparisonsHoweverMany) {
  SplitMix random(1);
  for (const size_t count : {0, 1, 2, 511, 512, 513, 2047, 2049, 50000}) {
    for (const uint64_t kinds : {1, 5, 3000, 10000000}) {
      const std::vector<Candidate> candidates = RandomCandidates(count, kinds, random);
      std::vector<Candidate> expected = candidates;
      std::vector<Candidate> sorted = candidates;
      std::sort(expected.begin(), expected.end(), Better);
      SortBestFirst(sorted);
      EXPECT_EQ(PairsOf(sorted), PairsOf(expected)) << count << " of " << kinds;
      SortByToken(sorted);
      std::sort(expected.begin(), expected.end(), EarlierToken);
      EXPECT_EQ(PairsOf(sorted), PairsOf(expected)) << count << " of " << kinds;
    }
  }
}

}  // namespace
}  // namespace tandem::core
