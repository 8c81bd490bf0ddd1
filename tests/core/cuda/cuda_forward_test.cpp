// Whole forward passes on a GPU, against the CPU's, bit for bit.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>

#include "core/device/device.h"
#include "core/formats/model_file.h"
#include "parallel/sharding/shard_plan.h"
#include "tests/core/cuda/thread_order.h"
#include "tests/support/forward_runner.h"
#include "tests/support/models.h"
#include "tests/support/random.h"
#include "tests/support/tiny_model.h"

namespace tandem::core {
namespace {

using testing::ForwardOptions;
using testing::ForwardResult;
using testing::RandomTokens;
using testing::RunForward;
using testing::TinyModelShape;
using testing::TinyModelSpec;

/// The same on the emulated GPU.
ForwardOptions OnCuda(ForwardOptions options, bool exact = true) {
  const DeviceOptions cuda{.kind = DeviceKind::kCuda,
                           .cpu = {.activations = options.activations, .threads = options.threads},
                           .gpu = {},
                           .exact = exact};
  options.device = [cuda](const ModelConfig& config, const Shard& shard) {
    return MakeDevice(cuda, config, shard);
  };
  return options;
}

/// The logits of `options` on the GPU are those of one rank on the CPU.
void ExpectTheBitsOfTheCpu(const ModelFile& file, std::span<const int32_t> tokens,
                           const ForwardOptions& options) {
  const auto expected = RunForward(
      file, tokens,
      {.isa = Isa::kAvx2, .activations = options.activations, .kv_dtype = options.kv_dtype});
  ASSERT_TRUE(expected.ok()) << expected.status();
  const auto found = RunForward(file, tokens, OnCuda(options));
  ASSERT_TRUE(found.ok()) << found.status();
  ASSERT_EQ(found->logits.size(), expected->logits.size());
  EXPECT_EQ(std::memcmp(found->logits.data(), expected->logits.data(),
                        expected->logits.size() * sizeof(float)),
            0);
  EXPECT_EQ(found->token_failed, expected->token_failed);
}

class CudaForward : public ::testing::TestWithParam<TinyModelShape> {
 protected:
  CudaForward()
      : bytes_(testing::TinyModel(GetParam().spec)),
        tokens_(RandomTokens(70, GetParam().spec.vocab, 3)) {
    auto file = ModelFile::OpenBuffer(bytes_, GetParam().name);
    EXPECT_TRUE(file.ok()) << file.status();
    file_ = std::move(file).value();
  }

  std::vector<std::byte> bytes_;
  std::unique_ptr<ModelFile> file_;
  std::vector<int32_t> tokens_;
};

TEST_P(CudaForward, GivesTheBitsOfTheCpu) { ExpectTheBitsOfTheCpu(*file_, tokens_, {}); }

TEST_P(CudaForward, ChunksAndNeighboursDoNotMatter) {
  ForwardOptions options{.threads = 2, .chunks = {33, 1, 5, 1, 17}};
  ExpectTheBitsOfTheCpu(*file_, tokens_, options);
  options.neighbour = RandomTokens(20, GetParam().spec.vocab, 17);
  ExpectTheBitsOfTheCpu(*file_, tokens_, options);
}

TEST_P(CudaForward, TwoRanksGiveTheBitsOfOne) {
  ASSERT_GE(parallel::LargestRankCount(file_->config()), 2);
  ExpectTheBitsOfTheCpu(*file_, tokens_, {.ranks = 2, .chunks = {40}});
  ExpectTheBitsOfTheCpu(*file_, tokens_, {.ranks = 2, .weights = {1, 3}});
}

TEST_P(CudaForward, ThreeRanksGiveTheBitsOfOne) {
  ASSERT_GE(parallel::LargestRankCount(file_->config()), 3);
  ExpectTheBitsOfTheCpu(*file_, tokens_, {.ranks = 3, .chunks = {69, 1}});
}

TEST_P(CudaForward, FloatActivationsToo) {
  ExpectTheBitsOfTheCpu(
      *file_, tokens_,
      {.ranks = 2, .activations = ActivationMode::kF32, .kv_dtype = KvDtype::kF32, .chunks = {33}});
}

/// Fast mode rounds otherwise: logits move by this part of their spread, at most.
constexpr double kFastDistance = 0.03;

void ExpectFastModeToBeNear(const ModelFile& file, std::span<const int32_t> tokens,
                            const ForwardOptions& options) {
  const auto expected = RunForward(file, tokens, {.isa = Isa::kAvx2});
  ASSERT_TRUE(expected.ok()) << expected.status();
  const auto [least, most] = std::minmax_element(expected->logits.begin(), expected->logits.end());
  const auto found = RunForward(file, tokens, OnCuda(options, /*exact=*/false));
  ASSERT_TRUE(found.ok()) << found.status();
  ASSERT_EQ(found->logits.size(), expected->logits.size());
  double largest = 0.0;
  for (size_t i = 0; i < found->logits.size(); ++i) {
    largest = std::max(largest, std::abs(double{found->logits[i]} - expected->logits[i]));
  }
  EXPECT_GT(largest, 0.0);
  EXPECT_LT(largest, kFastDistance * (double{*most} - *least));
}

TEST_P(CudaForward, FastModeIsNear) {
  for (const int ranks : {1, 2}) {
    for (const std::vector<int>& chunks : {std::vector<int>{70}, {66, 3, 1}}) {
      ExpectFastModeToBeNear(*file_, tokens_, {.ranks = ranks, .chunks = chunks});
    }
  }
}

/// Models that differ in their attention.
class CudaSparseForward : public CudaForward {};

TEST_P(CudaSparseForward, FastModeIsNear) {
  ASSERT_EQ(file_->SetAttention({.window = 9, .global = 3, .random = 1}), absl::OkStatus());
  ExpectFastModeToBeNear(*file_, tokens_, {.ranks = 2, .chunks = {66, 3, 1}});
}

TEST_P(CudaForward, Float8CachesToo) {
  ExpectTheBitsOfTheCpu(*file_, tokens_,
                        {.ranks = 2, .kv_dtype = KvDtype::kF8, .chunks = {33, 1, 5}});
}

TEST_P(CudaSparseForward, GivesTheBitsOfTheCpu) {
  const std::vector<int32_t> tokens = RandomTokens(330, GetParam().spec.vocab, 4);
  for (const AttentionForm& form :
       {AttentionForm{.window = 20, .global = 3}, AttentionForm{.window = 9, .random = 2}}) {
    ASSERT_EQ(file_->SetAttention(form), absl::OkStatus());
    ForwardOptions options{.ranks = 2, .chunks = {200, 1, 127, 1}};
    options.neighbour = std::vector<int32_t>(tokens.begin() + 7, tokens.begin() + 250);
    ExpectTheBitsOfTheCpu(*file_, tokens, options);
  }
}

TEST_P(CudaForward, TheOrderOfThreadsDoesNotMatter) {
  for (const uint64_t seed : {11, 12, 13}) {
    testing::SetThreadOrder(seed);
    ExpectTheBitsOfTheCpu(*file_, std::span(tokens_).first(9), {});
  }
}

INSTANTIATE_TEST_SUITE_P(Models, CudaForward, ::testing::ValuesIn(testing::TinyModelShapes()),
                         [](const auto& of) { return std::string(of.param.name); });

INSTANTIATE_TEST_SUITE_P(Models, CudaSparseForward, ::testing::ValuesIn(testing::AttentionShapes()),
                         [](const auto& of) { return std::string(of.param.name); });

class CudaForwardOfDType : public ::testing::TestWithParam<DType> {};

TEST_P(CudaForwardOfDType, GivesTheBitsOfTheCpu) {
  TinyModelSpec spec;
  spec.dtype = spec.embedding_dtype = GetParam();
  spec.dim = 256;
  spec.ffn_dim = 512;
  const std::vector<std::byte> bytes = testing::TinyModel(spec);
  const auto file = ModelFile::OpenBuffer(bytes, "tiny");
  ASSERT_TRUE(file.ok()) << file.status();
  ExpectTheBitsOfTheCpu(**file, RandomTokens(20, spec.vocab, 5), {.ranks = 2, .chunks = {19, 1}});
}

INSTANTIATE_TEST_SUITE_P(Types, CudaForwardOfDType,
                         ::testing::Values(DType::kF32, DType::kF16, DType::kBF16, DType::kQ4_0,
                                           DType::kQ4_1, DType::kQ5_0, DType::kQ5_1, DType::kQ8_0,
                                           DType::kQ2_K, DType::kQ3_K, DType::kQ4_K, DType::kQ5_K,
                                           DType::kQ6_K),
                         [](const auto& of) { return std::string(DTypeName(of.param)); });

/// The files that `transformers` made, with every RoPE scaling.
class CudaFamilies : public ::testing::TestWithParam<const char*> {};

TEST_P(CudaFamilies, GiveTheBitsOfTheCpu) {
  const char* elsewhere = std::getenv("GOLDEN_FAMILIES");
  const std::string folder =
      elsewhere != nullptr ? elsewhere : TANDEM_SOURCE_DIR "/tests/golden/families";
  const std::string path = folder + "/" + GetParam() + ".gguf";
  const auto file = ModelFile::Open(path);
  ASSERT_TRUE(file.ok()) << file.status();
  ExpectTheBitsOfTheCpu(**file, RandomTokens(70, (*file)->config().vocab, 7), {.chunks = {50, 20}});
}

INSTANTIATE_TEST_SUITE_P(All, CudaFamilies,
                         ::testing::Values("llama", "llama_linear", "llama_llama3", "llama_yarn",
                                           "qwen2", "qwen3", "gemma3", "gpt2", "gptneox",
                                           "gptneox_sequential", "falcon", "falcon_grouped",
                                           "starcoder2", "stablelm", "stablelm_parallel", "phi2",
                                           "bloom", "mpt", "llama_layer", "llama_batch"),
                         [](const auto& of) { return std::string(of.param); });

TEST(CudaForwardPass, OfARealModelGivesTheBitsOfTheCpu) {
  const auto file = ModelFile::Open(testing::ModelPath("SmolLM2-135M-Instruct.Q4_1.gguf"));
  ASSERT_TRUE(file.ok()) << file.status();
  const std::vector<int32_t> tokens = {504, 5345, 282, 4649, 314, 260, 2240, 282, 957, 30};
  ExpectTheBitsOfTheCpu(**file, tokens, {.chunks = {9, 1}});
}

TEST(CudaForwardPass, SeesPastAChunkOfAttention) {
  TinyModelSpec spec;
  spec.dtype = DType::kQ4_0;
  const std::vector<std::byte> bytes = testing::TinyModel(spec);
  const auto file = ModelFile::OpenBuffer(bytes, "tiny");
  ASSERT_TRUE(file.ok()) << file.status();
  ExpectTheBitsOfTheCpu(**file, RandomTokens(560, spec.vocab, 9), {.chunks = {250, 300, 1}});
}

}  // namespace
}  // namespace tandem::core
