#include "frontend/chat/perplexity.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "tests/support/fake_engine.h"

namespace tandem::frontend {
namespace {

using testing::FakeEngine;
using ::testing::HasSubstr;

FakeEngine::Script NoAnswer() {
  return [](const std::vector<int32_t>&) { return std::vector<int32_t>(); };
}

std::vector<int32_t> Counting(int32_t count) {
  std::vector<int32_t> tokens(static_cast<size_t>(count));
  std::iota(tokens.begin(), tokens.end(), 1);
  return tokens;
}

TEST(Perplexity, CutsATextAsLlamaCppDoes) {
  const PerplexityCut halves{.context = 512, .stride = {}};
  EXPECT_EQ(halves.chunk_tokens(), 512);
  EXPECT_EQ(halves.first_counted(), 257);
  EXPECT_EQ(halves.least_tokens(), 1024);
  EXPECT_EQ(halves.ChunksOf(1535), 2);
  EXPECT_EQ(halves.ChunksOf(1536), 3);
  EXPECT_EQ((PerplexityCut{.context = 101, .stride = {}}).first_counted(), 51);
  const PerplexityCut strided{.context = 512, .stride = 257};
  EXPECT_EQ(strided.chunk_tokens(), 640);
  EXPECT_EQ(strided.first_counted(), 383);
  EXPECT_EQ(strided.ChunksOf(640), 0);
  EXPECT_EQ(strided.ChunksOf(641), 1);
  EXPECT_EQ(strided.ChunksOf(640 + 257), 1);
  EXPECT_EQ(strided.ChunksOf(640 + 258), 2);
}

TEST(Perplexity, RefusesCutsOfWhichNothingCounts) {
  const auto check = [](int32_t context, std::optional<int32_t> stride, int64_t of_model = 1000) {
    const PerplexityCut cut{.context = context, .stride = stride};
    return std::string(cut.Check(of_model).message());
  };
  EXPECT_EQ(check(3, {}), "");
  EXPECT_THAT(check(2, {}), HasSubstr("--context 2: no token of such a chunk counts"));
  EXPECT_EQ(check(1000, {}), "");
  EXPECT_THAT(check(1001, {}), HasSubstr("--context 1001: a chunk has 1001 tokens"));
  EXPECT_EQ(check(800, 400), "");
  EXPECT_THAT(check(800, 402), HasSubstr("--context 800 with --stride 402: a chunk has 1001 tok"));
  EXPECT_EQ(check(33, 64), "");
  EXPECT_THAT(check(32, 64), HasSubstr("--stride 64: a chunk has 64 tokens"));
}

TEST(Perplexity, AddsUpMeanAndError) {
  PerplexitySum sum;
  sum.Add(-1.0F);
  EXPECT_DOUBLE_EQ(sum.perplexity(), std::exp(1.0));
  EXPECT_FALSE(sum.error().has_value());
  sum.Add(-3.0F);
  EXPECT_DOUBLE_EQ(sum.mean(), 2.0);
  EXPECT_DOUBLE_EQ(sum.perplexity(), std::exp(2.0));
  // Mean of squares 5, minus 4; over n - 1 = 1.
  EXPECT_DOUBLE_EQ(sum.error().value_or(0), std::exp(2.0));
  PerplexitySum equal;
  for (int i = 0; i < 3; ++i) equal.Add(-0.5F);
  EXPECT_FALSE(equal.error().has_value());
}

TEST(Perplexity, AsksForWhatCountsAndPutsInTheStartToken) {
  FakeEngine engine(NoAnswer());
  const std::vector<int32_t> tokens = Counting(35);
  std::vector<int64_t> told;
  const auto sum =
      MeasurePerplexity(engine,
                        {.tokens = tokens,
                         .cut = {.context = 10, .stride = {}},
                         .most_chunks = {},
                         .start_token = 99},
                        [&](int64_t chunk, int64_t chunks, const PerplexitySum& so_far) {
                          EXPECT_EQ(chunks, 3);
                          EXPECT_EQ(so_far.count(), 4 * chunk);
                          told.push_back(chunk);
                        });
  ASSERT_TRUE(sum.ok()) << sum.status();
  EXPECT_EQ(told, (std::vector<int64_t>{1, 2, 3}));
  EXPECT_EQ(sum->count(), 12);
  // Tokens 7 to 10, 17 to 20 and 27 to 30, of which each has -t/100.
  EXPECT_NEAR(sum->mean(), (34 + 74 + 114) / 1200.0, 1e-7);
  const auto requests = engine.requests();
  ASSERT_EQ(requests.size(), 3U);
  EXPECT_EQ(requests[1].prompt, (std::vector<int32_t>{99, 12, 13, 14, 15, 16, 17, 18, 19, 20}));
  EXPECT_TRUE(requests[1].prompt_logprobs);
  EXPECT_FALSE(requests[1].want_prompt_logits);
  EXPECT_EQ(requests[1].first_prompt_logprob, 6);
  EXPECT_EQ(requests[1].max_tokens, 0);
}

TEST(Perplexity, StridesOverlapAndHaveNoStartToken) {
  FakeEngine engine(NoAnswer());
  const std::vector<int32_t> tokens = Counting(35);
  const auto sum = MeasurePerplexity(
      engine,
      {.tokens = tokens, .cut = {.context = 10, .stride = 4}, .most_chunks = 2, .start_token = 99},
      nullptr);
  ASSERT_TRUE(sum.ok()) << sum.status();
  EXPECT_EQ(sum->count(), 8);
  // Chunks of 12 from 1 and from 5: tokens 9 to 12, and 13 to 16.
  EXPECT_NEAR(sum->mean(), (9 + 16) / 200.0, 1e-7);
  EXPECT_EQ(engine.requests()[0].prompt.front(), 1);
  EXPECT_EQ(engine.requests()[1].prompt.front(), 5);
}

TEST(Perplexity, HasAFewChunksInTheEngineAndTheSameSum) {
  const std::vector<int32_t> tokens = Counting(400);
  std::vector<double> found;
  for (const int32_t together : {1, 2, 7}) {
    FakeEngine engine(NoAnswer());
    int most = 0;
    const auto sum =
        MeasurePerplexity(engine,
                          {.tokens = tokens,
                           .cut = {.context = 16, .stride = {}},
                           .most_chunks = {},
                           .start_token = {},
                           .together = together},
                          [&](int64_t chunk, int64_t, const PerplexitySum&) {
                            most = std::max(most, engine.submitted() - static_cast<int>(chunk));
                          });
    ASSERT_TRUE(sum.ok()) << sum.status();
    EXPECT_EQ(most, together - 1);
    found.push_back(sum->perplexity());
  }
  EXPECT_EQ(found[0], found[1]);
  EXPECT_EQ(found[0], found[2]);
}

TEST(Perplexity, NamesTheChunkThatFailsAndEndsTheOthers) {
  FakeEngine engine(NoAnswer());
  const std::vector<int32_t> tokens = Counting(400);
  const auto sum = MeasurePerplexity(engine,
                                     {.tokens = tokens,
                                      .cut = {.context = 10, .stride = {}},
                                      .most_chunks = {},
                                      .start_token = {},
                                      .together = 3},
                                     [&](int64_t chunk, int64_t, const PerplexitySum&) {
                                       if (chunk == 2) engine.Hold(true);
                                       if (chunk == 2) engine.Die(Unavailable("rank 1 died"));
                                     });
  EXPECT_THAT(std::string(sum.status().message()), HasSubstr("rank 1 died"));
}

}  // namespace
}  // namespace tandem::frontend
