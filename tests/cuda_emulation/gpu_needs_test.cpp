// What is planned for a GPU's memory is what is allocated there.

#include "core/cuda/gpu_needs.h"

#include <gtest/gtest.h>

#include "core/cuda/blas/cuda_blas.h"
#include "core/cuda/workspace_limits.h"
#include "core/device/device.h"
#include "core/transformer/transformer.h"
#include "kv_store/pages/page_pool.h"
#include "parallel/sharding/model_costs.h"
#include "parallel/sharding/shard_plan.h"
#include "tests/cuda_emulation/device_buffers.h"
#include "tests/support/tiny_model.h"

namespace tandem::core {
namespace {

using testing::TinyModelShape;

class GpuNeedsOf : public ::testing::TestWithParam<TinyModelShape> {
 protected:
  void ExpectWhatIsAllocated(const AttentionForm& form);
};

void GpuNeedsOf::ExpectWhatIsAllocated(const AttentionForm& form) {
  const std::vector<std::byte> bytes = testing::TinyModel(GetParam().spec);
  const auto file = ModelFile::OpenBuffer(bytes, "tiny");
  ASSERT_TRUE(file.ok()) << file.status();
  ASSERT_EQ((*file)->SetAttention(form), absl::OkStatus());
  const ModelConfig& config = (*file)->config();
  const auto costs = parallel::CostsOf(**file);
  ASSERT_TRUE(costs.ok());
  const int ranks = std::min(2, parallel::LargestRankCount(config));
  const auto plan = parallel::PlanShards(config, *costs, {.ranks = ranks});
  ASSERT_TRUE(plan.ok()) << plan.status();
  constexpr int kTokens = 70;
  const std::pair<ActivationMode, bool> modes[] = {
      {ActivationMode::kQ8, true}, {ActivationMode::kF32, true}, {ActivationMode::kQ8, false}};
  for (const auto& [mode, exact] : modes) {
    for (const Shard& shard : plan->shards) {
      const GpuNeeds needs = NeedsOfGpu(
          **file, shard, mode, {.tokens = kTokens, .logit_rows = kTokens, .blocks = 2}, exact);
      const auto device = MakeDevice(
          {.kind = DeviceKind::kCuda, .cpu = {.activations = mode}, .gpu = {}, .exact = exact},
          config, shard);
      ASSERT_TRUE(device.ok()) << device.status();
      const auto allocated = [] { return static_cast<int64_t>(cuda_emulation::AllocatedBytes(0)); };
      int64_t before = allocated();
      const auto model = Transformer::Load(**file, shard, **device, nullptr);
      ASSERT_TRUE(model.ok()) << model.status();
      EXPECT_EQ(allocated() - before, needs.weights);

      const KvGeometry geometry{.groups = LayerGroups(config),
                                .layers = config.layers,
                                .kv_heads = static_cast<int>(shard.kv_heads.count),
                                .head_dim = config.head_dim};
      const auto pool = kv_store::PagePool::Create((*device)->memory(), geometry,
                                                   std::vector<int64_t>(geometry.groups.size(), 2));
      ASSERT_TRUE(pool.ok()) << pool.status();
      before = allocated();
      std::vector<int32_t> tokens(kTokens);
      std::vector<int32_t> places(kTokens);
      for (int i = 0; i < kTokens; ++i) tokens[static_cast<size_t>(i)] = i % config.vocab;
      for (int i = 0; i < kTokens; ++i) places[static_cast<size_t>(i)] = i;
      const std::vector<BlockId> table = {0, 1};
      const SequenceSlice slice{
          0, kTokens, 0, std::vector<std::span<const BlockId>>(geometry.groups.size(), table)};
      OneRank alone;
      ASSERT_TRUE(
          (*model)
              ->Forward(
                  {.step = 1, .tokens = tokens, .sequences = {&slice, 1}, .logit_tokens = places},
                  pool->view(), alone)
              .ok());
      const int64_t taken = allocated() - before;
      EXPECT_LE(taken, needs.workspace);
      // Attention takes less than its most here, and the emulation needs no cuBLASLt.
      const int64_t unused = kMostChunkFloats * 4 + (exact ? 0 : kBlasWorkspaceBytes);
      EXPECT_GT(taken, (needs.workspace - unused) / 2);
    }
  }
}

TEST_P(GpuNeedsOf, AreWhatIsAllocated) { ExpectWhatIsAllocated({}); }

class GpuNeedsOfSparse : public GpuNeedsOf {};

TEST_P(GpuNeedsOfSparse, AttentionAreWhatIsAllocated) {
  ExpectWhatIsAllocated({.window = 20, .global = 4});
  ExpectWhatIsAllocated({.window = 3, .random = 2});
}

INSTANTIATE_TEST_SUITE_P(Models, GpuNeedsOf, ::testing::ValuesIn(testing::TinyModelShapes()),
                         [](const auto& of) { return std::string(of.param.name); });
INSTANTIATE_TEST_SUITE_P(Models, GpuNeedsOfSparse, ::testing::ValuesIn(testing::AttentionShapes()),
                         [](const auto& of) { return std::string(of.param.name); });

}  // namespace
}  // namespace tandem::core
