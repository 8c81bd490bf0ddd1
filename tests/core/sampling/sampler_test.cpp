#include "core/sampling/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <random>
#include <set>
#include <vector>

#include "core/base/philox.h"
#include "core/cpu/elementwise/elementwise.h"
#include "core/sampling/sample_rows.h"

namespace tandem::core {
namespace {

using Words = std::array<uint32_t, 4>;

TEST(Philox, GivesThePublishedAnswers) {
  // Random123, kat_vectors, philox4x32 with 10 rounds.
  EXPECT_EQ(Philox4x32({0, 0, 0, 0}, {0, 0}),
            (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(Philox4x32({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff}),
            (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(Philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

/// Logits like a model's: most far below the best, and many exact ties.
std::vector<float> Logits(size_t vocab, uint32_t seed) {
  std::mt19937 generator(seed);
  std::vector<float> logits(vocab);
  for (float& logit : logits) {
    logit = std::round((static_cast<float>(generator()) * 0x1p-31F - 1.0F) * 64.0F) / 8.0F;
  }
  return logits;
}

/// What all ranks gather when the vocabulary is cut into shards of these sizes.
std::vector<Candidate> Gather(const SamplingParams& params, std::vector<float> logits,
                              const std::vector<int>& shards,
                              const std::vector<int32_t>& history = {}, uint64_t index = 0) {
  const int largest = *std::max_element(shards.begin(), shards.end());
  const auto each = static_cast<size_t>(CandidatesPerRank(params, largest));
  std::vector<Candidate> gathered(each * shards.size());
  size_t row = 0;
  for (size_t rank = 0; rank < shards.size(); ++rank) {
    const std::span<float> rows{logits.data() + row, static_cast<size_t>(shards[rank])};
    ApplyPenalties(params, index, history, static_cast<int64_t>(row), rows);
    SelectCandidates(rows, static_cast<int64_t>(row), {gathered.data() + rank * each, each});
    row += rows.size();
  }
  EXPECT_EQ(row, logits.size());
  return gathered;
}

std::optional<int32_t> Sample(const SamplingParams& params, uint64_t index,
                              const std::vector<float>& logits,
                              const std::vector<int32_t>& history = {}) {
  return SampleToken(params, index,
                     Gather(params, logits, {static_cast<int>(logits.size())}, history, index));
}

/// The slow reading of sampler.h: everything sorted, nothing clever. Returns weights by token.
std::map<int32_t, float> KeptWeights(const SamplingParams& params,
                                     const std::vector<float>& logits) {
  const auto sum_by_blocks = [](const std::map<int32_t, float>& weights) {
    std::map<int32_t, double> blocks;
    for (const auto& [token, weight] : weights) blocks[token / 1024] += weight;
    double sum = 0.0;
    for (const auto& [block, part] : blocks) sum += part;
    return sum;
  };
  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    return logits[static_cast<size_t>(a)] > logits[static_cast<size_t>(b)];
  });
  if (params.top_k > 0 && static_cast<size_t>(params.top_k) < order.size()) {
    order.resize(static_cast<size_t>(params.top_k));
  }
  const float best = logits[static_cast<size_t>(order[0])];
  std::map<int32_t, float> all;
  for (const int32_t token : order) {
    all[token] = Exp((logits[static_cast<size_t>(token)] - best) / params.temperature);
  }
  std::map<int32_t, float> kept;
  const double wanted = static_cast<double>(params.top_p) * sum_by_blocks(all);
  double reached = 0.0;
  for (const int32_t token : order) {
    if (params.top_p < 1.0F && reached >= wanted) break;
    reached += all[token];
    if (all[token] >= params.min_p && all[token] > 0.0F) kept[token] = all[token];
  }
  return kept;
}

int32_t SlowSample(const SamplingParams& params, uint64_t index, const std::vector<float>& logits) {
  const std::map<int32_t, float> kept = KeptWeights(params, logits);
  const auto word = [](uint64_t x, int shift) { return static_cast<uint32_t>(x >> shift); };
  const Words random = Philox4x32({word(index, 0), word(index, 32), params.sample_number, 0},
                                  {word(params.seed, 0), word(params.seed, 32)});
  const double uniform =
      static_cast<double>((uint64_t{random[0]} << 32 | random[1]) >> 11) / 9007199254740992.0;
  std::map<int32_t, double> blocks;
  for (const auto& [token, weight] : kept) blocks[token / 1024] += weight;
  double total = 0.0;
  for (const auto& [block, sum] : blocks) total += sum;
  const double target = uniform * total;
  double before = 0.0;
  for (const auto& [block, sum] : blocks) {
    double running = 0.0;
    for (const auto& [token, weight] : kept) {
      if (token / 1024 != block) continue;
      running += weight;
      if (target - before < running) return token;
    }
    before += sum;
  }
  return kept.rbegin()->first;
}

std::vector<SamplingParams> ManyParams() {
  std::vector<SamplingParams> many;
  for (const float temperature : {0.0F, 0.3F, 2.5F}) {
    for (const int top_k : {0, 1, 40, 3000, 100000}) {
      for (const float top_p : {1.0F, 0.9F, 0.9999F, 1e-6F}) {
        for (const float min_p : {0.0F, 0.02F, 1.0F}) {
          SamplingParams params;
          params.temperature = temperature;
          params.top_k = top_k;
          params.top_p = top_p;
          params.min_p = min_p;
          params.seed = 0x123456789abcdef0 + many.size();
          many.push_back(params);
        }
      }
    }
  }
  return many;
}

TEST(SampleToken, FollowsTheDocumentExactly) {
  const std::vector<float> logits = Logits(5000, 1);
  for (const SamplingParams& params : ManyParams()) {
    if (params.temperature == 0.0F) continue;
    for (uint64_t index = 0; index < 2; ++index) {
      EXPECT_EQ(Sample(params, index, logits), SlowSample(params, index, logits))
          << params.temperature << " " << params.top_k << " " << params.top_p << " "
          << params.min_p;
    }
  }
}

TEST(SampleToken, DoesNotDependOnTheCut) {
  const std::vector<float> logits = Logits(2500, 2);
  std::mt19937 generator(3);
  const std::vector<std::vector<int>> cuts = {{1250, 1250},
                                              {2499, 1},
                                              {0, 2500},
                                              {700, 1024, 776},
                                              {1000, 500, 0, 1000, 0},
                                              {1, 2, 3, 4, 5, 6, 2479}};
  const std::vector<int32_t> history = {4, 4, 17, 2499, 100000, 1250};
  for (SamplingParams params : ManyParams()) {
    params.repetition_penalty = 1.3F;
    params.presence_penalty = 0.6F;
    params.frequency_penalty = 0.3F;
    params.logit_bias = {{3, 7.5F}, {2498, 7.0F}, {1249, -100.0F}};
    params.min_tokens = 1;  // one answer's token is withheld from, the other is not
    params.end_tokens = {3, 1250, 2499, 100000};
    for (const uint64_t index : {0, 1, 4}) {
      const std::optional<int32_t> expected = Sample(params, index, logits, history);
      ASSERT_TRUE(expected.has_value());
      for (const std::vector<int>& cut : cuts) {
        std::vector<Candidate> gathered = Gather(params, logits, cut, history, index);
        EXPECT_EQ(SampleToken(params, index, gathered), expected);
        std::shuffle(gathered.begin(), gathered.end(), generator);
        EXPECT_EQ(SampleToken(params, index, gathered), expected);
      }
    }
  }
}

TEST(SampleToken, GreedyTakesTheBestAndTheLowestOfTies) {
  SamplingParams greedy;
  EXPECT_EQ(Sample(greedy, 0, {1.0F, 3.0F, 2.0F, 3.0F}), 1);
  EXPECT_EQ(Sample(greedy, 0, {-1.0F, 0.0F, -0.0F}), 1);
  EXPECT_EQ(Sample(greedy, 0, {-1.0F, -0.0F, 0.0F}), 1);
  const std::vector<float> same(10, 5.0F);
  EXPECT_EQ(SampleToken(greedy, 0, Gather(greedy, same, {3, 3, 4})), 0);
  EXPECT_EQ(SampleToken(greedy, 0, Gather(greedy, same, {0, 6, 4})), 0);
}

TEST(SampleToken, FollowsTheDistribution) {
  std::vector<float> logits(60);
  for (size_t i = 0; i < logits.size(); ++i) logits[i] = static_cast<float>(i % 30) * 0.1F;
  SamplingParams params;
  params.temperature = 0.8F;
  params.top_p = 0.95F;
  params.seed = 42;
  const std::map<int32_t, float> kept = KeptWeights(params, logits);
  ASSERT_GT(kept.size(), 30U);
  ASSERT_LT(kept.size(), 60U);
  double total = 0.0;
  for (const auto& [token, weight] : kept) total += weight;
  constexpr int kDraws = 40000;
  std::map<int32_t, int> counts;
  for (uint64_t index = 0; index < kDraws; ++index) ++counts[*Sample(params, index, logits)];
  double chi_square = 0.0;
  for (const auto& [token, weight] : kept) {
    const double expected = kDraws * weight / total;
    chi_square += std::pow(counts[token] - expected, 2) / expected;
    counts.erase(token);
  }
  EXPECT_TRUE(counts.empty()) << "drew a token that top_p had removed";
  // Mean k, deviation sqrt(2k) with k degrees of freedom; five deviations either way, as numbers
  // that fit too well are not random either.
  const auto freedom = static_cast<double>(kept.size() - 1);
  EXPECT_LT(chi_square, freedom + 5 * std::sqrt(2 * freedom));
  EXPECT_GT(chi_square, freedom - 5 * std::sqrt(2 * freedom));
}

TEST(SampleToken, DrawsAreTheirKeysAlone) {
  const std::vector<float> logits(1000, 0.0F);
  SamplingParams params;
  params.temperature = 1.0F;
  std::set<int32_t> drawn;
  for (uint32_t sample = 0; sample < 10; ++sample) {
    for (const uint64_t seed : {uint64_t{0}, uint64_t{1}, uint64_t{1} << 32}) {
      for (const uint64_t index : {uint64_t{0}, uint64_t{1}, uint64_t{1} << 32}) {
        params.seed = seed;
        params.sample_number = sample;
        drawn.insert(*Sample(params, index, logits));
        EXPECT_EQ(Sample(params, index, logits), Sample(params, index, logits));
      }
    }
  }
  // 90 draws of 1000 equally likely tokens meet about 4 times.
  EXPECT_GE(drawn.size(), 75U);
}

TEST(SampleToken, SurvivesExtremes) {
  SamplingParams params;
  params.temperature = 1e-30F;  // the difference over it overflows
  for (uint64_t index = 0; index < 20; ++index) {
    EXPECT_EQ(Sample(params, index, {1.0F, 9.0F, -3e38F, 3e38F}), 3);
    EXPECT_EQ(Sample(params, index, {-3e38F, 3e38F}), 1);
  }
  params.temperature = 1e30F;
  std::set<int32_t> drawn;
  for (uint64_t index = 0; index < 50; ++index) {
    drawn.insert(*Sample(params, index, {-1000.0F, 1000.0F}));
  }
  EXPECT_EQ(drawn.size(), 2U);
}

TEST(SampleToken, FailsWhereARankFailedOrNoneHasRows) {
  SamplingParams params;
  for (const float temperature : {0.0F, 1.0F}) {
    params.temperature = temperature;
    EXPECT_EQ(SampleToken(params, 0, {}), std::nullopt);
    EXPECT_EQ(SampleToken(params, 0, {Candidate{}, Candidate{}}), std::nullopt);
    for (const float bad :
         {std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity(),
          std::numeric_limits<float>::quiet_NaN()}) {
      for (const size_t at : {0, 5, 9}) {
        std::vector<float> logits(10, 1.0F);
        logits[at] = bad;
        EXPECT_EQ(SampleToken(params, 0, Gather(params, logits, {4, 0, 6})), std::nullopt);
      }
    }
  }
}

TEST(CandidatesPerRank, FollowsFromParametersAlone) {
  SamplingParams params;
  EXPECT_EQ(CandidatesPerRank(params, 100), 1);
  params.top_k = 40;
  EXPECT_EQ(CandidatesPerRank(params, 100), 1);
  params.temperature = 1.0F;
  EXPECT_EQ(CandidatesPerRank(params, 100), 40);
  EXPECT_EQ(CandidatesPerRank(params, 30), 30);
  params.top_k = 0;
  EXPECT_EQ(CandidatesPerRank(params, 100), 100);
}

TEST(ApplyPenalties, TouchesEachTokenOnceAndOnlyItsOwnRows) {
  SamplingParams params;
  params.repetition_penalty = 2.0F;
  params.logit_bias = {{11, 1.0F}, {11, 0.5F}, {9, 100.0F}, {14, 100.0F}};
  std::vector<float> logits = {4.0F, -4.0F, 6.0F, 8.0F};  // tokens 10 to 13
  const std::vector<int32_t> history = {10, 11, 10, 10, 11, 9, 14, 0, 1 << 30};
  ApplyPenalties(params, 0, history, 10, logits);
  EXPECT_EQ(logits, (std::vector<float>{2.0F, -5.0F, 6.0F, 8.0F}));  // the bias comes first
}

TEST(ApplyPenalties, SubtractsForWhatTheAnswerHas) {
  std::mt19937 generator(11);
  constexpr int32_t kFirst = 10;
  constexpr int32_t kRows = 30;
  for (const auto& [presence, frequency] : {std::pair(0.5F, 0.0F), {0.0F, 0.3F}, {-1.5F, 0.7F}}) {
    SamplingParams params;
    params.repetition_penalty = 1.25F;
    params.presence_penalty = presence;
    params.frequency_penalty = frequency;
    for (const uint64_t answered : {0, 1, 7, 40}) {
      std::vector<int32_t> history(50);
      for (int32_t& token : history) token = static_cast<int32_t>(generator() % 50);
      // As OpenAI's API says it: mu[j] - c[j] * frequency - (c[j] > 0) * presence.
      std::vector<float> expected = Logits(kRows, static_cast<uint32_t>(answered));
      std::vector<float> logits = expected;
      for (int32_t row = 0; row < kRows; ++row) {
        const int32_t token = kFirst + row;
        float& logit = expected[static_cast<size_t>(row)];
        if (std::find(history.begin(), history.end(), token) != history.end()) {
          logit = logit > 0 ? logit / 1.25F : logit * 1.25F;
        }
        const auto answer = history.end() - static_cast<ptrdiff_t>(answered);
        const auto count = std::count(answer, history.end(), token);
        if (count > 0) logit -= presence + static_cast<float>(count) * frequency;
      }
      ApplyPenalties(params, answered, history, kFirst, logits);
      EXPECT_EQ(logits, expected) << presence << " " << frequency << " " << answered;
    }
  }
}

TEST(ApplyPenalties, WithholdsEndTokensFromTheFirstTokens) {
  SamplingParams params;
  params.min_tokens = 3;
  params.end_tokens = {11, 13, 9, 14, -5, 1 << 30, 11};
  params.logit_bias = {{11, 1000.0F}};
  const std::vector<float> logits = {4.0F, 5.0F, 6.0F, std::numeric_limits<float>::quiet_NaN()};
  for (const uint64_t index : {0, 2}) {
    std::vector<float> withheld = logits;  // tokens 10 to 13
    ApplyPenalties(params, index, {}, 10, withheld);
    EXPECT_EQ(withheld[0], 4.0F);
    EXPECT_EQ(withheld[1], kWithheldLogit);
    EXPECT_EQ(withheld[2], 6.0F);
    EXPECT_TRUE(std::isnan(withheld[3])) << "a failed computation stays one";
  }
  std::vector<float> later = logits;
  ApplyPenalties(params, 3, {}, 10, later);
  EXPECT_EQ(later[1], 1005.0F);
}

TEST(SampleToken, NeverDrawsWhatIsWithheld) {
  // Three tokens of almost all probability, which are withheld, and some among which nothing
  // decides.
  std::vector<float> logits(60, 0.0F);
  logits[7] = logits[40] = logits[41] = 50.0F;
  for (SamplingParams params : ManyParams()) {
    params.end_tokens = {7, 40, 41};
    params.min_tokens = 20;
    for (uint64_t index = 0; index < 30; ++index) {
      const std::optional<int32_t> token = Sample(params, index, logits);
      ASSERT_TRUE(token.has_value());
      const bool end = *token == 7 || *token == 40 || *token == 41;
      ASSERT_EQ(end, index >= 20) << index << ": " << *token;
    }
  }
}

TEST(SelectCandidates, FindsTheBestAndPadsTheRest) {
  const std::vector<float> logits = Logits(2000, 7);
  for (const size_t count : {1, 2, 40, 1999, 2000, 2100}) {
    std::vector<Candidate> out(count, Candidate{9.0F, 9});
    SelectCandidates(logits, 500, out);
    const auto better = [](const Candidate& a, const Candidate& b) {
      return a.logit != b.logit ? a.logit > b.logit : a.token < b.token;
    };
    std::vector<Candidate> expected;
    for (size_t row = 0; row < logits.size(); ++row) {
      expected.push_back({logits[row], static_cast<int32_t>(500 + row)});
    }
    std::sort(expected.begin(), expected.end(), better);
    const size_t real = std::min(count, logits.size());
    for (size_t i = real; i < count; ++i) EXPECT_EQ(out[i].token, kPaddingToken);
    std::sort(out.begin(), out.begin() + static_cast<ptrdiff_t>(real), better);
    for (size_t i = 0; i < real; ++i) {
      ASSERT_EQ(out[i].token, expected[i].token) << count << " " << i;
      ASSERT_EQ(out[i].logit, expected[i].logit);
    }
  }
}

TEST(SampleRows, ChoosesForEachRowAsAloneAndFailsOnlyItsOwn) {
  constexpr int64_t kVocab = 300;
  std::vector<float> logits(4 * kVocab);
  for (size_t i = 0; i < logits.size(); ++i) logits[i] = static_cast<float>(i * 7919 % 1009) / 50;
  logits[2 * kVocab + 17] = std::numeric_limits<float>::quiet_NaN();
  const SamplingParams greedy{.repetition_penalty = 1.5F, .logit_bias = {}};
  const SamplingParams drawn{.temperature = 0.8F, .top_k = 20, .seed = 5, .logit_bias = {}};
  const std::vector<int32_t> history = {3, 9, 200};
  const std::vector<SampleRow> rows = {
      {.row = 3, .params = &greedy, .history = history, .token_index = 0, .candidates = 1},
      {.row = 0, .params = &drawn, .history = history, .token_index = 7, .candidates = 20},
      {.row = 2, .params = &drawn, .history = {}, .token_index = 8, .candidates = 20},
      {.row = 1, .params = &drawn, .history = {}, .token_index = 9, .candidates = 20}};
  std::vector<SampledToken> expected;
  for (const SampleRow& row : rows) {
    std::vector<float> of_row(logits.begin() + row.row * kVocab,
                              logits.begin() + (row.row + 1) * kVocab);
    ApplyPenalties(*row.params, row.token_index, row.history, 0, of_row);
    std::vector<Candidate> candidates(static_cast<size_t>(row.candidates));
    SelectCandidates(of_row, 0, candidates);
    expected.push_back(SampleToken(*row.params, row.token_index, candidates));
  }
  OneRank world;
  std::vector<SampledToken> found(rows.size());
  const auto one_after_the_other = [](int64_t tasks, absl::FunctionRef<void(int64_t)> body) {
    for (int64_t task = 0; task < tasks; ++task) body(task);
  };
  HostLogits in_memory(logits.data(), {0, kVocab}, one_after_the_other);
  ASSERT_TRUE(SampleRows(rows, in_memory, world, {}, one_after_the_other, found).ok());
  EXPECT_EQ(found, expected);
  EXPECT_EQ(found[2], std::nullopt);
  EXPECT_TRUE(found[0] && found[1] && found[3]);
}

}  // namespace
}  // namespace tandem::core
