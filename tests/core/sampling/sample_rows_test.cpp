#include "core/sampling/sample_rows.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>

#include "tests/core/sampling/sampling_ranks.h"

namespace tandem::core {
namespace {

using ::tandem::testing::FarLogits;
using ::tandem::testing::LogitsOfRank;
using ::tandem::testing::MakeInMemory;
using ::tandem::testing::NearLogits;
using ::tandem::testing::OneAfterTheOther;
using ::tandem::testing::RandomSamplingCase;
using ::tandem::testing::SampleEachRow;
using ::tandem::testing::SampleOnRanks;
using ::tandem::testing::SamplingCase;

/// Those of every second rank.
std::unique_ptr<LogitsOfRank> EverySecondIsFar(size_t rank, Range vocab_rows,
                                               const std::vector<float>& logits) {
  return rank % 2 == 0 ? MakeInMemory<FarLogits>(rank, vocab_rows, logits)
                       : MakeInMemory<NearLogits>(rank, vocab_rows, logits);
}

TEST(SampleRows, EveryCutAndPlaceGivesTheTokensOfSampleToken) {
  for (const int64_t vocab : {3, 300, 1024, 2047, 5001, 20000}) {
    const SamplingCase of = RandomSamplingCase(vocab, 70, static_cast<uint64_t>(vocab));
    std::vector<float> changed;
    const std::vector<SampledToken> expected = SampleEachRow(of, changed);
    for (const std::vector<int64_t>& cut : testing::VocabularyCuts(vocab)) {
      const auto found = SampleOnRanks(of, cut, EverySecondIsFar);
      for (const std::vector<SampledToken>& of_rank : found.of_rank) {
        EXPECT_EQ(of_rank, expected) << vocab << " on " << cut.size();
      }
      EXPECT_EQ(std::memcmp(found.logits.data(), changed.data(), changed.size() * sizeof(float)),
                0);
    }
  }
}

TEST(SampleRows, TopPTakesNoRanksTokenForAnothersThatWasNotGathered) {
  // Top_p keeps 380 tokens, all of the first rank, which gives 256 at first.
  SamplingCase of{.vocab = 2000, .logits = {}, .params = {}, .histories = {}};
  for (uint64_t seed = 0; seed < 40; ++seed) {
    of.params.push_back({.temperature = 1.0F, .top_p = 0.2F, .seed = seed, .logit_bias = {}});
    of.histories.emplace_back();
    of.logits.insert(of.logits.end(), 1000, 1.0F);
    of.logits.insert(of.logits.end(), 1000, 0.9F);
  }
  std::vector<float> changed;
  const std::vector<SampledToken> expected = SampleEachRow(of, changed);
  for (const SampledToken& token : expected) EXPECT_LT(*token, 390);
  const auto found = SampleOnRanks(of, {1000, 1000}, MakeInMemory<FarLogits>);
  for (const std::vector<SampledToken>& of_rank : found.of_rank) EXPECT_EQ(of_rank, expected);
}

/// What is taken from a row's logits where they are far.
size_t BytesTaken(const SamplingParams& params, float spread) {
  constexpr int64_t kVocab = 100000;
  SamplingCase of{.vocab = kVocab, .logits = {}, .params = {params}, .histories = {{}}};
  testing::SplitMix random(9);
  for (int64_t i = 0; i < kVocab; ++i) of.logits.push_back(random.Unit() * spread);
  OneRank world;
  FarLogits logits(of.logits.data(), {0, kVocab});
  std::vector<SampledToken> out(1);
  EXPECT_TRUE(SampleRows(of.SampleRows(kVocab), logits, world, {}, OneAfterTheOther, out).ok());
  EXPECT_TRUE(out[0].has_value());
  return logits.bytes;
}

TEST(SampleRows, TakesLittleOfLogitsThatAreFar) {
  constexpr size_t kSums = 100000 / 1024 * sizeof(double);
  constexpr size_t kBlock = 1024 * sizeof(float);
  EXPECT_EQ(BytesTaken({.temperature = 0.0F, .logit_bias = {}}, 50.0F), 8U);
  EXPECT_EQ(BytesTaken({.temperature = 1.0F, .top_k = 40, .logit_bias = {}}, 50.0F), 320U);
  EXPECT_LE(BytesTaken({.temperature = 1.0F, .logit_bias = {}}, 50.0F), 8 + kSums + 3 * kBlock);
  EXPECT_LE(BytesTaken({.temperature = 1.0F, .logit_bias = {}}, 0.0F), 8 + kSums + 3 * kBlock);
  // At 700 the weights halve every 100 tokens.
  EXPECT_LE(BytesTaken({.temperature = 1.0F, .top_p = 0.7F, .logit_bias = {}}, 700.0F),
            256 * 8 + kSums + 2 * kBlock);
  EXPECT_LE(BytesTaken({.temperature = 1.0F, .top_p = 0.99F, .logit_bias = {}}, 700.0F),
            (256 + 4096) * 8 + kSums + 2 * kBlock);
}

TEST(SampleRows, WithoutRowsNoCollectiveIsCalled) {
  struct NoWorld final : Collective {
    int rank() const override { return 0; }
    int size() const override { return 2; }
    absl::Status AllReduceSum(std::span<int64_t>, const StepPhase&) override {
      return Internal("called");
    }
    absl::Status AllGather(std::span<const std::byte>, std::span<std::byte>,
                           const StepPhase&) override {
      return Internal("called");
    }
  } world;
  FarLogits logits(nullptr, {0, 10});
  EXPECT_TRUE(SampleRows({}, logits, world, {}, OneAfterTheOther, {}).ok());
  const SamplingParams greedy;
  const SampleRow row{.params = &greedy, .history = {}};
  std::vector<float> values(10, 1.0F);
  FarLogits some(values.data(), {0, 10});
  std::vector<SampledToken> out(1);
  EXPECT_EQ(SampleRows({&row, 1}, some, world, {}, OneAfterTheOther, out).code(),
            absl::StatusCode::kInternal);
}

}  // namespace
}  // namespace tandem::core
