#include "parallel/sharding/model_costs.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "parallel/sharding/shard_plan_text.h"
#include "tests/support/models.h"

namespace tandem::parallel {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

std::unique_ptr<core::ModelFile> Open(const std::string& path) {
  absl::StatusOr<std::unique_ptr<core::ModelFile>> file = core::ModelFile::Open(path);
  EXPECT_TRUE(file.ok()) << file.status();
  return file.ok() ? *std::move(file) : nullptr;
}

double TensorBytes(const core::ModelFile& file) {
  double bytes = 0;
  for (const core::GgufTensor& tensor : file.gguf().tensors()) {
    bytes += static_cast<double>(tensor.data.size());
  }
  return bytes;
}

double Total(const core::ModelConfig& config, const ModelCosts& costs) {
  return costs.query_head * config.heads + costs.kv_head * config.kv_heads +
         costs.ffn_column * config.ffn_dim + costs.vocab_row * config.vocab + costs.every_rank;
}

TEST(ModelCosts, SmolLm2AddsUpToTheFile) {
  const auto file = Open(testing::ModelPath("SmolLM2-135M-Instruct.Q4_1.gguf"));
  ASSERT_NE(file, nullptr);
  const absl::StatusOr<ModelCosts> costs = CostsOf(*file);
  ASSERT_TRUE(costs.ok()) << costs.status();
  EXPECT_EQ(Total(file->config(), *costs), TensorBytes(*file));
  // 30 layers of 64 rows and 64 columns of 576 in Q4_1, 20 bytes a block of 32.
  EXPECT_EQ(costs->query_head, 30 * 2 * 64 * 576 / 32 * 20);
  EXPECT_EQ(costs->kv_head, costs->query_head);
  EXPECT_EQ(costs->ffn_column, 30 * 3 * 576 / 32 * 20);
  EXPECT_EQ(costs->vocab_row, 576 / 32 * 34);
}

TEST(ModelCosts, GemmaAddsUpToTheFile) {
  const auto file = Open(testing::ModelPath("gemma-3-270m-q4_k_m.gguf"));
  ASSERT_NE(file, nullptr);
  const absl::StatusOr<ModelCosts> costs = CostsOf(*file);
  ASSERT_TRUE(costs.ok()) << costs.status();
  EXPECT_EQ(Total(file->config(), *costs), TensorBytes(*file));
  for (int ranks = 1; ranks <= 4; ++ranks) {
    const auto plan = PlanShards(file->config(), *costs, {ranks, {}, {}});
    ASSERT_TRUE(plan.ok()) << plan.status();
    EXPECT_EQ(HoldersOfKvHead(plan->shards, 0).count, ranks);
  }
}

TEST(ShardPlanText, ShowsWhoHoldsWhat) {
  const auto file = Open(testing::ModelPath("SmolLM2-135M-Instruct.Q4_1.gguf"));
  ASSERT_NE(file, nullptr);
  const auto plan = PlanShards(file->config(), CostsOf(*file).value(), {2, {}, {}});
  ASSERT_TRUE(plan.ok());
  // Rank 0: 7 of 12 head parts of 1,382,400 bytes, 768 columns of 32,400, 24,576 rows of 612 and
  // 140,544 bytes of norms.
  EXPECT_EQ(ToTable(file->config(), *plan),
            "rank  weight  query heads  KV heads         columns      vocabulary rows   MiB\n"
            "   0       1      0-4 (5)   0-1 (2)     0-767 (768)      0-24575 (24576)  47.4\n"
            "   1       1      5-8 (4)   1-2 (2)  768-1535 (768)  24576-49151 (24576)  46.1\n"
            "\n"
            "KV heads that several ranks compute:\n"
            "  KV head 1 on ranks 0 to 1; rank 0 records it\n"
            "\n"
            "Predicted time over ideal (weights read, without messages):\n"
            "  attention      16.7 %  (rank 0 is the slowest)\n"
            "  feed-forward    0.0 %\n"
            "  vocabulary      0.0 %\n"
            "  layers          4.2 %\n"
            "  whole step      2.9 %\n");
}

TEST(ShardPlanText, SaysWhereARankHoldsNothing) {
  const auto file = Open(testing::ModelPath("SmolLM2-135M-Instruct.Q4_1.gguf"));
  ASSERT_NE(file, nullptr);
  core::ModelConfig config = file->config();
  config.ffn_dim = 64;
  const auto plan = PlanShards(config, CostsOf(*file).value(), {3, {1, 1, 2.5}, {}});
  ASSERT_TRUE(plan.ok());
  const std::string table = ToTable(config, *plan);
  EXPECT_THAT(table, HasSubstr("none"));
  EXPECT_THAT(table, HasSubstr("2.5"));
  // Three query heads on one slow rank would take longer (4) than six on the fast one (8 / 2.5).
  EXPECT_THAT(table, HasSubstr("KV head 0 on ranks 0 to 1; rank 0 records it"));
  EXPECT_THAT(table, Not(HasSubstr("KV head 1 on")));
}

}  // namespace
}  // namespace tandem::parallel
