#include "parallel/placement/gpu_memory.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "parallel/sharding/model_costs.h"
#include "tests/support/tiny_model.h"

namespace tandem::parallel {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

/// A model of 4 parts at most, whose weights are F16.
class GpuMemoryOfAModel : public ::testing::Test {
 protected:
  GpuMemoryOfAModel()
      : bytes_(testing::TinyModel({.dim = 512,
                                   .ffn_dim = 1024,
                                   .heads = 8,
                                   .kv_heads = 4,
                                   .head_dim = 64,
                                   .dtype = core::DType::kF16,
                                   .embedding_dtype = core::DType::kF16})) {
    auto file = core::ModelFile::OpenBuffer(bytes_, "tiny");
    EXPECT_TRUE(file.ok()) << file.status();
    file_ = *std::move(file);
  }
  ShardPlan Plan(int ranks) const {
    const auto plan = PlanShards(file_->config(), *CostsOf(*file_), {.ranks = ranks});
    EXPECT_TRUE(plan.ok()) << plan.status();
    return *plan;
  }
  GpuMemory Needs() const { return MemoryOnGpu(*file_, Plan(1).shards[0], options_); }
  absl::Status Check(int64_t free, int sharers = 1) const {
    return CheckGpuMemory(
        *file_, Plan(1), 0, options_,
        {.host = "n1", .gpu = "GPU 2 (NVIDIA G)", .free = free, .sharers = sharers});
  }

  std::vector<std::byte> bytes_;
  std::unique_ptr<core::ModelFile> file_;
  GpuMemoryOptions options_{.max_running = 4, .prefill_chunk = 64};
};

TEST_F(GpuMemoryOfAModel, IsOfWeightsCacheAndAStep) {
  const GpuMemory needs = Needs();
  EXPECT_NEAR(needs.bits_per_weight, 16, 0.2);
  EXPECT_EQ(needs.token, 2 * 4 * 64 * 2 * 2);  // layers, heads, dimensions, keys and values, bytes
  EXPECT_EQ(needs.cache, 4 * 1024 * needs.token);  // of the model's context
  EXPECT_EQ(needs.least_cache, 64 * needs.token);
  EXPECT_EQ(needs.total(), needs.weights + needs.cache + needs.workspace + kGpuReserve);
  options_.kv_memory = 3 * 64 * needs.token;
  EXPECT_EQ(Needs().cache, options_.kv_memory);
}

TEST_F(GpuMemoryOfAModel, ThatFitsIsNoError) {
  const GpuMemory needs = Needs();
  const int64_t least = needs.weights + needs.least_cache + needs.workspace + kGpuReserve;
  EXPECT_TRUE(Check(least).ok()) << Check(least);
  EXPECT_FALSE(Check(least - 1).ok());
  EXPECT_FALSE(Check(least, 2).ok());
  EXPECT_TRUE(Check(2 * least, 2).ok());
}

TEST_F(GpuMemoryOfAModel, ThatDoesNotFitIsRefusedWithWhatWould) {
  const GpuMemory needs = Needs();
  const int64_t least = needs.weights + needs.least_cache + needs.workspace + kGpuReserve;
  const std::string text = Message(Check(least - needs.weights / 4));
  EXPECT_THAT(text, HasSubstr("GPU 2 (NVIDIA G) of host n1 has "));
  EXPECT_THAT(text, HasSubstr("rank 0 needs "));
  EXPECT_THAT(text, HasSubstr("are missing; it would fit with -n 2 on GPUs with as much free"));
  EXPECT_THAT(text, HasSubstr("or with weights in Q8_0"));
  EXPECT_THAT(text, Not(HasSubstr("--kv-memory")));
  EXPECT_THAT(Message(Check(least, 2)), HasSubstr("free for 2 ranks"));
  EXPECT_THAT(Message(Check(1 << 20)), HasSubstr("no number of ranks and no smaller format"));
}

TEST_F(GpuMemoryOfAModel, ACacheThatIsTooLargeIsToldWhatFits) {
  options_.kv_memory = int64_t{1} << 30;
  const GpuMemory needs = Needs();
  const int64_t free = needs.weights + needs.workspace + kGpuReserve + (100 << 20);
  EXPECT_THAT(Message(Check(free)), HasSubstr("with --kv-memory 100MiB"));
}

}  // namespace
}  // namespace tandem::parallel
