#include "core/cuda/cuda_operations.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "core/cpu/cpu_operations.h"
#include "core/device/device.h"
#include "core/sampling/sampler.h"
#include "tests/core/cuda/gpu.h"
#include "tests/support/logprobs.h"
#include "tests/support/tiny_model.h"

namespace tandem::core {
namespace {

using ::tandem::testing::RandomFloats;
using ::tandem::testing::SameBits;
using ::testing::Each;
using ::testing::ElementsAre;

ModelConfig SmallConfig() {
  ModelConfig config;
  config.dim = 96;
  config.ffn_dim = 160;
  config.heads = 4;
  config.kv_heads = 2;
  config.head_dim = 32;
  config.vocab = 300;
  config.layers = 1;
  config.layer_window = {0};
  for (int i = 0; i < 16; ++i) config.rope.inverse_frequencies.push_back(1.0 / (1 + i));
  return config;
}

/// The same operations on both devices.
class CudaOperationsTwins : public ::testing::Test {
 protected:
  void Fill(Operations& operations, Tensor& x, int64_t rows, const std::vector<float>& values) {
    x.SetRows(rows);
    const CopyRun run{reinterpret_cast<std::byte*>(x.data()),
                      reinterpret_cast<std::byte*>(const_cast<float*>(values.data())),
                      values.size() * sizeof(float)};
    ThrowDeviceFailure(operations.memory().CopyFromHost({&run, 1}));
  }
  std::vector<float> Read(Operations& operations, const Tensor& x) {
    std::vector<float> values(static_cast<size_t>(x.rows() * x.columns()));
    operations.ReadRows(x, {0, x.rows()}, values.data(), x.columns());
    return values;
  }

  const ModelConfig config_ = SmallConfig();
  const Shard shard_ = WholeModel(config_);
  CpuOperations cpu_{config_, shard_, {.isa = Isa::kAvx2}};
  CudaOperations gpu_{config_, shard_, {.threads = 2}};
};

TEST_F(CudaOperationsTwins, EmbedExpandsRowsOfEveryType) {
  const std::vector<int32_t> tokens = {0, 7, 299, 7};
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16, DType::kQ4_0, DType::kQ4_1,
                            DType::kQ5_0, DType::kQ5_1, DType::kQ8_0, DType::kQ2_K, DType::kQ3_K,
                            DType::kQ4_K, DType::kQ5_K, DType::kQ6_K}) {
    const std::vector<std::byte> bytes = testing::RandomBlocks(dtype, 300 * 256, 1.0F, 5);
    const EmbeddingTables table{{"token_embd.weight", dtype, bytes.data(), 300, 256}, {}};
    for (const float scale : {1.0F, 11.3F}) {
      Tensor on_cpu(cpu_.memory(), 256);
      Tensor on_gpu(gpu_.memory(), 256);
      cpu_.Embed(table, tokens, scale, on_cpu);
      gpu_.Embed(table, tokens, scale, on_gpu);
      EXPECT_TRUE(SameBits(Read(gpu_, on_gpu), Read(cpu_, on_cpu))) << DTypeName(dtype);
    }
  }
}

TEST_F(CudaOperationsTwins, SampleTheSameTokens) {
  const std::vector<float> logits = RandomFloats(3 * 300, 9);
  SamplingParams greedy;
  SamplingParams drawn;
  drawn.temperature = 0.7F;
  drawn.top_k = 40;
  drawn.top_p = 0.9F;
  drawn.seed = 5;
  drawn.repetition_penalty = 1.3F;
  drawn.presence_penalty = 0.5F;
  drawn.frequency_penalty = 0.3F;
  drawn.logit_bias = {{4, 2.5F}, {250, -1.0F}};
  const std::vector<int32_t> history = {1, 2, 3, 2};
  const SampleRow rows[] = {
      {.row = 0, .params = &greedy, .history = history, .candidates = 1},
      {.row = 2, .params = &drawn, .history = history, .token_index = 8, .candidates = 40}};
  std::vector<std::vector<SampledToken>> sampled;
  std::vector<std::vector<float>> changed;
  OneRank world;
  for (Operations* operations :
       {static_cast<Operations*>(&cpu_), static_cast<Operations*>(&gpu_)}) {
    Tensor x(operations->memory(), 300);
    Fill(*operations, x, 3, logits);
    std::vector<SampledToken> out(2);
    ASSERT_TRUE(operations->Sample(x, {0, 300}, rows, world, {}, out).ok());
    sampled.push_back(out);
    changed.push_back(Read(*operations, x));
  }
  EXPECT_EQ(sampled[1], sampled[0]);
  EXPECT_TRUE(SameBits(changed[1], changed[0]));
  EXPECT_FALSE(SameBits(changed[1], logits));
}

TEST_F(CudaOperationsTwins, ScoreTheLogitsOfTheModelAfterSampling) {
  const std::vector<float> logits = RandomFloats(2 * 300, 11);
  SamplingParams params;
  params.repetition_penalty = 1.3F;
  params.presence_penalty = 0.5F;
  params.frequency_penalty = 0.3F;
  params.logit_bias = {{4, 2.5F}, {250, -1.0F}, {4, 1e8F}};
  params.min_tokens = 1;
  params.end_tokens = {2, 9};
  const std::vector<int32_t> history = {1, 2, 3, 2, 250};
  const SampleRow sampled{.row = 1,
                          .params = &params,
                          .history = history,
                          .token_index = 0,
                          .candidates = 1,
                          .scored = true};
  const ScoreRow scored[] = {{.row = 1, .token = 4, .top = 300, .largest_shard = 300},
                             {.row = 0, .token = 299, .top = 0, .largest_shard = 300}};
  OneRank world;
  for (Operations* operations :
       {static_cast<Operations*>(&cpu_), static_cast<Operations*>(&gpu_)}) {
    Tensor x(operations->memory(), 300);
    Fill(*operations, x, 2, logits);
    std::vector<SampledToken> token(1);
    ASSERT_TRUE(operations->Sample(x, {0, 300}, {&sampled, 1}, world, {}, token).ok());
    EXPECT_EQ(token[0], 4);
    EXPECT_TRUE(SameBits(Read(*operations, x), logits));
    std::vector<TokenScore> scores(2);
    ASSERT_TRUE(operations->Score(x, {0, 300}, scored, world, {}, scores).ok());
    for (size_t i = 0; i < 2; ++i) {
      const auto first = logits.begin() + scored[i].row * 300;
      EXPECT_EQ(scores[i],
                testing::LogprobsOf({first, first + 300}, scored[i].token, scored[i].top));
    }
  }
}

TEST_F(CudaOperationsTwins, WithholdTheSameTokens) {
  const std::vector<float> logits = RandomFloats(300, 10);
  SamplingParams params;
  params.min_tokens = 1;
  params.end_tokens = {
      static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin())};
  const SampleRow row{.row = 0, .params = &params, .history = {}, .candidates = 1};
  OneRank world;
  for (Operations* operations :
       {static_cast<Operations*>(&cpu_), static_cast<Operations*>(&gpu_)}) {
    Tensor x(operations->memory(), 300);
    Fill(*operations, x, 1, logits);
    std::vector<SampledToken> out(1);
    ASSERT_TRUE(operations->Sample(x, {0, 300}, {&row, 1}, world, {}, out).ok());
    EXPECT_NE(out[0], params.end_tokens[0]);
    EXPECT_EQ(Read(*operations, x)[static_cast<size_t>(params.end_tokens[0])], kWithheldLogit);
  }
}

TEST_F(CudaOperationsTwins, ReadRowsLeavesRoomBetweenThem) {
  Tensor x(gpu_.memory(), 3);
  Fill(gpu_, x, 3, {1, 2, 3, 4, 5, 6, 7, 8, 9});
  std::vector<float> out(9, -1.0F);
  gpu_.ReadRows(x, {1, 2}, out.data() + 1, 4);
  EXPECT_THAT(out, ElementsAre(-1, 4, 5, 6, -1, 7, 8, 9, -1));
}

TEST_F(CudaOperationsTwins, TokensThatFailAreKeptUntilTheNextStep) {
  const std::vector<int32_t> tokens = {1, 2, 3};
  const std::vector<BlockId> table = {0};
  const SequenceSlice sequence{0, 3, 0, {table}};
  Batch batch;
  batch.tokens = tokens;
  batch.sequences = {&sequence, 1};
  gpu_.BeginStep(batch);
  Tensor x(gpu_.memory(), 96);
  Fill(gpu_, x, 3, std::vector<float>(288, 1.0F));
  PartialSums sums(gpu_.memory(), 96);
  sums.SetTokens(3);
  std::vector<int64_t> values(sums.all().size(), 0);
  values[288 + 1] = 2;
  const CopyRun run{reinterpret_cast<std::byte*>(sums.sums()),
                    reinterpret_cast<std::byte*>(values.data()), values.size() * sizeof(int64_t)};
  ThrowDeviceFailure(gpu_.memory().CopyFromHost({&run, 1}));
  gpu_.AddPartialSums(sums, {}, {}, x);
  EXPECT_THAT(gpu_.TokenFailures(), ElementsAre(0, 1, 0));
  gpu_.BeginStep(batch);
  EXPECT_THAT(gpu_.TokenFailures(), Each(0));
}

/// Two ranks, the other of which fails.
class BrokenWorld final : public Collective {
 public:
  int rank() const override { return 0; }
  int size() const override { return 2; }
  absl::Status AllReduceSum(std::span<int64_t> values, const StepPhase&) override {
    reduced = values.size();
    return Unavailable("rank 1 is gone");
  }
  absl::Status AllGather(std::span<const std::byte>, std::span<std::byte>,
                         const StepPhase&) override {
    return Unavailable("rank 1 is gone");
  }
  size_t reduced = 0;
};

TEST_F(CudaOperationsTwins, AnErrorOfTheCollectiveIsGivenOn) {
  PartialSums sums(gpu_.memory(), 96);
  sums.SetTokens(2);
  BrokenWorld world;
  EXPECT_EQ(gpu_.AllReduce(sums, world, {}).code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(world.reduced, sums.all().size());
}

TEST_F(CudaOperationsTwins, AnEmptyStepIsNothing) {
  gpu_.BeginStep({});
  Tensor x(gpu_.memory(), 96);
  gpu_.Embed({{"", DType::kF32, nullptr, 300, 96}, {}}, {}, 1.0F, x);
  Tensor out(gpu_.memory(), 96);
  gpu_.SelectRows(x, {}, out);
  EXPECT_EQ(out.rows(), 0);
  EXPECT_TRUE(gpu_.TokenFailures().empty());
}

TEST(CudaDevice, IsMadeWhereThereIsOne) {
  const auto kind = ParseDevice("cuda");
  ASSERT_TRUE(kind.ok()) << kind.status();
  ASSERT_EQ(*kind, DeviceKind::kCuda);
  const auto gpus = FindGpus(*kind);
  ASSERT_TRUE(gpus.ok()) << gpus.status();
  const ModelConfig config = SmallConfig();
  for (const Gpu& gpu : *gpus) {
    const auto device =
        MakeDevice({.kind = *kind, .cpu = {}, .gpu = gpu}, config, WholeModel(config));
    ASSERT_TRUE(device.ok()) << device.status();
    EXPECT_EQ(std::string((*device)->device_name()),
              fmt::format("cuda (GPU {}, {}, exact mode)", gpu.index, gpu.name));
  }
}

TEST(CudaDevice, AutoIsStillACpu) {
  const auto kind = ParseDevice("auto");
  ASSERT_TRUE(kind.ok()) << kind.status();
  EXPECT_EQ(*kind, DeviceKind::kCpu);
}

}  // namespace
}  // namespace tandem::core
