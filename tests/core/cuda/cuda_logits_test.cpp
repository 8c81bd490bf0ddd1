#include "core/cuda/cuda_logits.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>

#include "tests/core/cuda/gpu.h"
#include "tests/core/cuda/thread_order.h"
#include "tests/core/sampling/sampling_ranks.h"
#include "tests/support/logprobs.h"

namespace tandem::core {
namespace {

using ::tandem::testing::LogitsOfRank;
using ::tandem::testing::MakeInMemory;
using ::tandem::testing::MakeLogitsOfRank;
using ::tandem::testing::NearLogits;
using ::tandem::testing::OneAfterTheOther;
using ::tandem::testing::OnGpu;
using ::tandem::testing::OnRanks;
using ::tandem::testing::RandomSamplingCase;
using ::tandem::testing::SameBits;
using ::tandem::testing::SampleEachRow;
using ::tandem::testing::SampleOnRanks;
using ::tandem::testing::SamplingCase;

class OnGpuOfRank final : public LogitsOfRank {
 public:
  OnGpuOfRank(Range vocab_rows, const std::vector<float>& values)
      : values_(memory_, values), reductions_(memory_), logits_(memory_, reductions_) {
    logits_.Set(values_.data(), vocab_rows);
  }
  ShardLogits& logits() override { return logits_; }
  std::vector<float> Read() override { return values_.Read(); }

 private:
  CudaMemory memory_;
  OnGpu<float> values_;
  CudaReductions reductions_;
  CudaLogits logits_;
};

/// Ranks from `cpus_from` on are CPUs.
void ExpectTheTokensOfTheCpu(const SamplingCase& of, const std::vector<int64_t>& cut,
                             size_t cpus_from = 1000) {
  std::vector<float> changed;
  const std::vector<SampledToken> expected = SampleEachRow(of, changed);
  const auto make = [cpus_from](size_t rank, Range vocab_rows, const std::vector<float>& logits) {
    if (rank >= cpus_from) return MakeInMemory<NearLogits>(rank, vocab_rows, logits);
    return std::unique_ptr<LogitsOfRank>(std::make_unique<OnGpuOfRank>(vocab_rows, logits));
  };
  const auto found = SampleOnRanks(of, cut, make);
  for (const std::vector<SampledToken>& of_rank : found.of_rank) EXPECT_EQ(of_rank, expected);
  EXPECT_TRUE(SameBits(found.logits, changed));
}

TEST(CudaLogits, GiveTheTokensOfTheCpuForEachParameter) {
  for (const int64_t vocab : {1, 2, 255, 1023, 1024, 1025, 4097}) {
    ExpectTheTokensOfTheCpu(RandomSamplingCase(vocab, 70, static_cast<uint64_t>(vocab)), {vocab});
  }
}

TEST(CudaLogits, GiveThemForAnyNumberOfRows) {
  for (const int64_t rows : {1, 2, 3, 17}) {
    ExpectTheTokensOfTheCpu(RandomSamplingCase(3001, rows, 90 + static_cast<uint64_t>(rows)),
                            {3001});
  }
}

TEST(CudaLogits, GiveThemForLargeVocabularies) {
  ExpectTheTokensOfTheCpu(RandomSamplingCase(33333, 12, 5), {33333});
}

TEST(CudaLogits, GiveThemForEveryCut) {
  const SamplingCase of = RandomSamplingCase(5003, 25, 6);
  for (const std::vector<int64_t>& cut : testing::VocabularyCuts(of.vocab)) {
    ExpectTheTokensOfTheCpu(of, cut);
  }
}

TEST(CudaLogits, GiveThemTogetherWithCpus) {
  const SamplingCase of = RandomSamplingCase(5003, 25, 7);
  ExpectTheTokensOfTheCpu(of, {2000, 3003}, 1);
  ExpectTheTokensOfTheCpu(of, {1500, 1024, 2479}, 2);
}

/// Scores of every row on ranks with GPUs, those from `cpus_from` on with CPUs, against one CPU's.
void ExpectTheScoresOfTheCpu(const SamplingCase& of, const std::vector<int64_t>& cut,
                             size_t cpus_from = 1000) {
  const auto score = [&](const std::vector<int64_t>& shards, const MakeLogitsOfRank& make) {
    std::vector<ScoreRow> rows;
    testing::SplitMix random(11);
    for (int64_t row = of.rows(); row-- > 0;) {
      const auto token = static_cast<int32_t>(random.Below(static_cast<uint64_t>(of.vocab)));
      rows.push_back({.row = row,
                      .token = token,
                      .top = static_cast<int32_t>(row % 3 == 0 ? 0 : random.Below(70)),
                      .largest_shard = *std::max_element(shards.begin(), shards.end())});
    }
    std::vector<std::vector<TokenScore>> found(shards.size(), std::vector<TokenScore>(rows.size()));
    OnRanks(of.logits, of.vocab, shards, make,
            [&](size_t rank, ShardLogits& logits, Collective& world) {
              return ScoreRows(rows, logits, world, {}, OneAfterTheOther, found[rank]);
            });
    return found;
  };
  const auto expected = score({of.vocab}, MakeInMemory<NearLogits>);
  EXPECT_TRUE(std::any_of(expected[0].begin(), expected[0].end(),
                          [](const TokenScore& one) { return one.has_value(); }));
  const auto make = [cpus_from](size_t rank, Range vocab_rows, const std::vector<float>& logits) {
    if (rank >= cpus_from) return MakeInMemory<NearLogits>(rank, vocab_rows, logits);
    return std::unique_ptr<LogitsOfRank>(std::make_unique<OnGpuOfRank>(vocab_rows, logits));
  };
  for (const auto& of_rank : score(cut, make)) EXPECT_EQ(of_rank, expected[0]);
}

TEST(CudaLogits, ScoreAsTheCpuForEveryCut) {
  for (const int64_t vocab : {3, 255, 1023, 1024, 1025, 5003}) {
    const SamplingCase of = RandomSamplingCase(vocab, 12, 100 + static_cast<uint64_t>(vocab));
    for (const std::vector<int64_t>& cut : testing::VocabularyCuts(vocab)) {
      ExpectTheScoresOfTheCpu(of, cut);
    }
  }
  ExpectTheScoresOfTheCpu(RandomSamplingCase(33333, 6, 12), {33333});
}

TEST(CudaLogits, ScoreTogetherWithCpus) {
  const SamplingCase of = RandomSamplingCase(5003, 25, 13);
  ExpectTheScoresOfTheCpu(of, {2000, 3003}, 1);
  ExpectTheScoresOfTheCpu(of, {1500, 1024, 2479}, 2);
}

TEST(CudaLogits, LittleOfScoresComesToTheHost) {
  if (!testing::BytesToHost()) GTEST_SKIP() << "nobody counts the bytes";
  constexpr int64_t kVocab = 20000;
  testing::SplitMix random(14);
  std::vector<float> values;
  for (int64_t i = 0; i < kVocab; ++i) values.push_back(random.Unit() * 50.0F);
  OnGpuOfRank logits({0, kVocab}, values);
  OneRank world;
  for (const int32_t top : {0, 20}) {
    const ScoreRow row{.row = 0, .token = 7, .top = top, .largest_shard = kVocab};
    TokenScore score;
    const uint64_t before = testing::BytesToHost().value_or(0);
    EXPECT_TRUE(
        ScoreRows({&row, 1}, logits.logits(), world, {}, OneAfterTheOther, {&score, 1}).ok());
    EXPECT_EQ(
        testing::BytesToHost().value_or(0) - before,
        static_cast<uint64_t>(std::max(top, 1)) * 8 + 4 + 20000 / 1024 * 8 + 20000 % 1024 * 4);
    EXPECT_EQ(score, testing::LogprobsOf(values, 7, top));
  }
}

TEST(CudaLogits, TheOrderOfThreadsDoesNotMatter) {
  const SamplingCase of = RandomSamplingCase(3001, 20, 8);
  for (const uint64_t seed : {21, 22, 23}) {
    testing::SetThreadOrder(seed);
    ExpectTheTokensOfTheCpu(of, {3001});
    ExpectTheScoresOfTheCpu(of, {3001});
  }
}

/// Bytes that one row takes to the host.
uint64_t BytesToHost(const SamplingParams& params, float spread) {
  constexpr int64_t kVocab = 20000;
  SamplingCase of{.vocab = kVocab, .logits = {}, .params = {params}, .histories = {{1, 2, 3}}};
  testing::SplitMix random(9);
  for (int64_t i = 0; i < kVocab; ++i) of.logits.push_back(random.Unit() * spread);
  OnGpuOfRank logits({0, kVocab}, of.logits);
  OneRank world;
  std::vector<SampledToken> out(1);
  const uint64_t before = testing::BytesToHost().value_or(0);
  EXPECT_TRUE(
      SampleRows(of.SampleRows(kVocab), logits.logits(), world, {}, OneAfterTheOther, out).ok());
  const uint64_t bytes = testing::BytesToHost().value_or(0) - before;
  std::vector<float> changed;
  EXPECT_EQ(out, SampleEachRow(of, changed));
  return bytes;
}

TEST(CudaLogits, LittleComesToTheHost) {
  if (!testing::BytesToHost()) GTEST_SKIP() << "nobody counts the bytes";
  const SamplingParams greedy{
      .temperature = 0.0F, .repetition_penalty = 1.3F, .logit_bias = {{4, 2.0F}}};
  EXPECT_EQ(BytesToHost(greedy, 50.0F), 8U);
  const SamplingParams best{.temperature = 1.0F, .top_k = 40, .top_p = 0.9F, .logit_bias = {}};
  EXPECT_EQ(BytesToHost(best, 50.0F), 40U * 8);
  constexpr uint64_t kSums = 20000 / 1024 * 8;
  constexpr uint64_t kEdges = 20000 % 1024 * 4;
  constexpr uint64_t kBlock = 1024 * 4;
  for (const float spread : {0.0F, 5.0F, 50.0F}) {
    const SamplingParams any{.temperature = 1.0F, .min_p = 0.01F, .logit_bias = {}};
    EXPECT_LE(BytesToHost(any, spread), 8 + kSums + kEdges + kBlock);
  }
  const SamplingParams likely{.temperature = 1.0F, .top_p = 0.9F, .logit_bias = {}};
  EXPECT_EQ(BytesToHost(likely, 700.0F), 256 * 8 + kSums + kEdges);
  const SamplingParams hot{.temperature = 10.0F, .top_p = 0.9F, .logit_bias = {}};
  EXPECT_EQ(BytesToHost(hot, 700.0F), (256 + 4096) * 8 + kSums + kEdges);
  EXPECT_EQ(BytesToHost(hot, 1.0F), (256 + 4096 + 20000) * 8 + kSums + kEdges);
}

TEST(CudaLogits, LittleComesToTheHostsOfSeveralRanks) {
  if (!testing::BytesToHost()) GTEST_SKIP() << "nobody counts the bytes";
  constexpr int64_t kVocab = 20000;
  SamplingCase of{.vocab = kVocab, .logits = {}, .params = {}, .histories = {}};
  testing::SplitMix random(10);
  for (const float top_p : {1.0F, 0.9F}) {
    of.params.push_back({.temperature = 1.0F, .top_p = top_p, .logit_bias = {}});
    of.histories.emplace_back();
    for (int64_t i = 0; i < kVocab; ++i) of.logits.push_back(random.Unit() * 700.0F);
  }
  for (const std::vector<int64_t>& cut : {std::vector<int64_t>{9000, 11000}, {7000, 6000, 7000}}) {
    const uint64_t before = testing::BytesToHost().value_or(0);
    ExpectTheTokensOfTheCpu(of, cut);
    // The test reads all logits at the end.
    const uint64_t bytes =
        testing::BytesToHost().value_or(0) - before - of.logits.size() * sizeof(float);
    const uint64_t edges = cut.size() * 2 * 1023 * sizeof(float);
    const uint64_t sums = kVocab / 1024 * sizeof(double);
    EXPECT_LE(bytes, cut.size() * (1 + 256) * sizeof(Candidate) + 2 * (sums + edges) +
                         1024 * sizeof(float));
  }
}

}  // namespace
}  // namespace tandem::core
