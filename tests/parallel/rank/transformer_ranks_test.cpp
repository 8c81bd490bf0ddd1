// The second promise: logits do not depend on ranks, threads, instruction set, chunking or
// neighbours in the batch.

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "core/formats/model_file.h"
#include "parallel/sharding/shard_plan.h"
#include "tests/support/forward_runner.h"
#include "tests/support/random.h"
#include "tests/support/tiny_model.h"

namespace tandem::parallel {
namespace {

using testing::ForwardOptions;
using testing::ForwardResult;
using testing::RandomTokens;
using testing::RunForward;
using testing::TinyModelShape;

void ExpectSameBits(const ForwardResult& expected, const ForwardResult& found,
                    const std::string& what) {
  ASSERT_EQ(expected.logits.size(), found.logits.size()) << what;
  EXPECT_EQ(0, std::memcmp(expected.logits.data(), found.logits.data(),
                           expected.logits.size() * sizeof(float)))
      << what;
}

class TransformerRanks : public ::testing::TestWithParam<TinyModelShape> {
 protected:
  TransformerRanks()
      : bytes_(testing::TinyModel(GetParam().spec)),
        tokens_(RandomTokens(150, GetParam().spec.vocab, 3)) {
    auto file = core::ModelFile::OpenBuffer(bytes_, GetParam().name);
    EXPECT_TRUE(file.ok()) << file.status();
    file_ = std::move(file).value();
  }

  ForwardResult Run(const ForwardOptions& options) {
    auto result = RunForward(*file_, tokens_, options);
    EXPECT_TRUE(result.ok()) << Describe(options) << ": " << result.status();
    return result.ok() ? *result : ForwardResult{};
  }

  std::vector<std::byte> bytes_;
  std::unique_ptr<core::ModelFile> file_;
  std::vector<int32_t> tokens_;
};

TEST_P(TransformerRanks, GiveTheBitsOfOneRank) {
  const ForwardResult expected = Run({});
  for (const float logit : expected.logits) ASSERT_TRUE(std::isfinite(logit));
  for (const int ranks : {2, 3, 4, 5, 7}) {
    if (ranks > LargestRankCount(file_->config())) continue;
    const ForwardOptions options{.ranks = ranks, .threads = 1 + ranks % 2, .isa = core::BestIsa()};
    ExpectSameBits(expected, Run(options), Describe(options));
  }
  const ForwardOptions uneven{.ranks = 2, .weights = {1, 3}};
  if (LargestRankCount(file_->config()) >= 2) {
    ExpectSameBits(expected, Run(uneven), Describe(uneven));
  }
}

TEST_P(TransformerRanks, ThreadsChunksIsaAndNeighboursDoNotMatter) {
  const ForwardResult expected = Run({});
  const std::vector<int32_t> neighbour = RandomTokens(90, GetParam().spec.vocab, 17);
  for (const core::Isa isa : {core::Isa::kScalar, core::Isa::kAvx2, core::Isa::kAvx512}) {
    if (isa > core::BestIsa()) continue;
    const ForwardOptions variants[] = {
        {.threads = 2, .isa = isa},
        {.isa = isa, .chunks = {1}},
        {.threads = 3, .isa = isa, .chunks = {64, 5, 1, 17}},
        {.isa = isa, .chunks = {40}, .neighbour = neighbour},
    };
    for (const ForwardOptions& options : variants) {
      ExpectSameBits(expected, Run(options), Describe(options));
    }
  }
}

TEST_P(TransformerRanks, FloatActivationsToo) {
  const ForwardOptions slow{.activations = core::ActivationMode::kF32,
                            .kv_dtype = core::KvDtype::kF32};
  ForwardOptions parallel = slow;
  parallel.ranks = std::min(3, LargestRankCount(file_->config()));
  parallel.isa = core::BestIsa();
  parallel.chunks = {33};
  ExpectSameBits(Run(slow), Run(parallel), Describe(parallel));
}

TEST_P(TransformerRanks, Float8CachesToo) {
  const ForwardResult expected = Run({.kv_dtype = core::KvDtype::kF8});
  for (const float logit : expected.logits) ASSERT_TRUE(std::isfinite(logit));
  EXPECT_NE(expected.logits, Run({}).logits);
  for (const int ranks : {1, 2, 3, 5}) {
    if (ranks > LargestRankCount(file_->config())) continue;
    const ForwardOptions options{.ranks = ranks,
                                 .threads = 1 + ranks % 2,
                                 .isa = core::BestIsa(),
                                 .kv_dtype = core::KvDtype::kF8,
                                 .chunks = {64, 5, 1, 17}};
    ExpectSameBits(expected, Run(options), Describe(options));
  }
  const ForwardOptions avx2{.isa = core::Isa::kAvx2, .kv_dtype = core::KvDtype::kF8, .chunks = {1}};
  ExpectSameBits(expected, Run(avx2), Describe(avx2));
}

INSTANTIATE_TEST_SUITE_P(Shapes, TransformerRanks, ::testing::ValuesIn(testing::TinyModelShapes()),
                         [](const auto& shape) { return shape.param.name; });

}  // namespace
}  // namespace tandem::parallel
