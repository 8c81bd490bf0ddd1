// Pages that leave a GPU and come back while steps go on: records, and preempted requests.

#include <gtest/gtest.h>

#include <chrono>
#include <functional>
#include <latch>
#include <memory>
#include <vector>

#include "core/device/device.h"
#include "kv_store/tiers/memory_tier.h"
#include "parallel/sharding/shard_plan.h"
#include "tests/cuda_emulation/gpus.h"
#include "tests/support/collecting_sink.h"
#include "tests/support/file_model.h"
#include "tests/support/local_cluster.h"
#include "tests/support/random.h"
#include "tests/support/tiny_model.h"

namespace tandem::testing {
namespace {

constexpr int32_t kVocab = 40;

/// An answer, and what its request cost.
struct Answer {
  std::vector<int32_t> tokens;
  parallel::Usage usage;
};

class EnginePages : public ::testing::TestWithParam<core::Family> {
 protected:
  EnginePages()
      : written_(WriteTinyModel({.family = GetParam(),
                                 .layers = 1,
                                 .dim = 32,
                                 .ffn_dim = 32,
                                 .heads = 6,
                                 .kv_heads = 3,
                                 .head_dim = 16,
                                 .vocab = kVocab,
                                 .window = 70,
                                 .seed = 5})),
        file_(*core::ModelFile::Open(written_.path())) {
    cuda_emulation::SetGpus({.count = 3});
  }
  ~EnginePages() override { cuda_emulation::SetGpus({}); }

  std::unique_ptr<LocalCluster> Start(core::DeviceKind kind, int ranks,
                                      const parallel::RankOptions& rank) {
    const auto plan = parallel::PlanShards(
        file_->config(), {.query_head = 3, .kv_head = 2, .ffn_column = 3, .vocab_row = 1},
        {.ranks = ranks, .weights = {}, .memory = {}});
    EXPECT_TRUE(plan.ok()) << plan.status();
    LocalCluster::Options options;
    options.ranks = ranks;
    options.rank = rank;
    options.model = [this, kind, shards = plan->shards](int of_rank) {
      const core::Shard& shard = shards[static_cast<size_t>(of_rank)];
      core::DeviceOptions device{.kind = kind, .cpu = {.threads = 1}};
      device.gpu.index = of_rank;
      return std::make_unique<FileModel>(*file_, shard,
                                         *core::MakeDevice(device, file_->config(), shard));
    };
    auto cluster = LocalCluster::Start(std::move(options));
    EXPECT_TRUE(cluster.ok()) << cluster.status();
    return *std::move(cluster);
  }

  /// Answers of `count` tokens to prompts that are asked at once. asked: called then.
  static std::vector<Answer> Ask(
      parallel::Engine& engine, const std::vector<std::vector<int32_t>>& prompts, int32_t count,
      const std::function<void()>& asked = [] {}) {
    std::vector<CollectingSink> sinks(prompts.size());
    for (size_t i = 0; i < prompts.size(); ++i) {
      parallel::EngineRequest request;
      request.prompt = prompts[i];
      request.max_tokens = count;
      request.durable = true;
      EXPECT_TRUE(engine.Submit(request, sinks[i].Sink()).ok());
    }
    asked();
    std::vector<Answer> answers;
    for (CollectingSink& sink : sinks) {
      const auto finish = sink.WaitForFinish();
      EXPECT_TRUE(finish.has_value());
      EXPECT_TRUE(finish.has_value() && finish->status.ok()) << finish->status;
      answers.push_back({sink.tokens(), finish.value_or(parallel::Finish()).usage});
    }
    return answers;
  }

  static std::vector<std::vector<int32_t>> Prompts(size_t count, int length, uint64_t seed) {
    std::vector<std::vector<int32_t>> prompts;
    for (size_t i = 0; i < count; ++i) prompts.push_back(RandomTokens(length, kVocab, seed + i));
    return prompts;
  }

  TempFile written_;
  std::unique_ptr<core::ModelFile> file_;
};

TEST_P(EnginePages, OfPreemptedRequestsComeBackFromTheHostTier) {
  const auto prompts = Prompts(3, 70, 3);
  const auto expected = Ask(Start(core::DeviceKind::kCpu, 1, {})->engine(), prompts, 130);
  uint64_t returned = 0;  // where nobody had taken their pages, they need not
  for (const int ranks : {1, 2, 3}) {
    // Less than two of the requests need, of the heads that a rank has.
    const int64_t heads = ranks == 1 ? 3 : ranks == 2 ? 2 : 1;
    const int64_t token = 2 * 2 * heads * file_->config().head_dim * file_->config().layers;
    parallel::RankOptions rank;
    rank.max_running = 3;
    rank.prefill_chunk = 64;
    rank.kv_sequence_tokens = 256;
    // A window needs fewer pages.
    rank.kv_memory = token * 64 * (GetParam() == core::Family::kLlama ? 6 : 5);
    for (const core::DeviceKind kind : {core::DeviceKind::kCuda, core::DeviceKind::kCpu}) {
      rank.spill_memory = rank.kv_memory;
      // No step before all have come, or the first may be over by then.
      std::latch asked(1);
      rank.on_step_thread = [&asked] { asked.wait(); };
      const auto cluster = Start(kind, ranks, rank);
      const auto found = Ask(cluster->engine(), prompts, 130, [&asked] { asked.count_down(); });
      int32_t preemptions = 0;
      for (size_t i = 0; i < prompts.size(); ++i) {
        EXPECT_EQ(found[i].tokens, expected[i].tokens) << ranks << " ranks, request " << i;
        preemptions += found[i].usage.preemptions;
      }
      const auto status = cluster->engine().Status();
      ASSERT_TRUE(status.ok());
      EXPECT_GT(preemptions, 0) << ranks << " ranks";
      EXPECT_GT(status->host_tier.spilled, 0U) << ranks << " ranks";
      returned += status->host_tier.returned;
    }
  }
  EXPECT_GT(returned, 0U);
}

TEST_P(EnginePages, OfRecordsAreSavedAndFilledBesideSteps) {
  const auto prompts = Prompts(2, 110, 7);
  const auto first = Ask(Start(core::DeviceKind::kCpu, 1, {})->engine(), prompts, 5);
  std::vector<std::vector<int32_t>> turns;
  for (size_t i = 0; i < prompts.size(); ++i) {
    std::vector<int32_t>& turn = turns.emplace_back(prompts[i]);
    turn.insert(turn.end(), first[i].tokens.begin(), first[i].tokens.end());
    turn.push_back(7);
  }
  const auto second = Ask(Start(core::DeviceKind::kCpu, 1, {})->engine(), turns, 5);
  parallel::RankOptions rank;
  rank.prefill_chunk = 64;
  rank.records.fetch_deadline = std::chrono::seconds(60);
  rank.records.least_fetch_deadline = std::chrono::seconds(60);
  rank.records.flush_deadline = std::chrono::seconds(60);
  for (const auto& [before, after] : {std::pair(1, 3), std::pair(3, 2), std::pair(2, 1)}) {
    kv_store::MemoryTier tier({});
    rank.records.tier = &tier;
    const auto saved = Ask(Start(core::DeviceKind::kCuda, before, rank)->engine(), prompts, 5);
    const auto cluster = Start(core::DeviceKind::kCuda, after, rank);
    const auto resumed = Ask(cluster->engine(), turns, 5);
    for (size_t i = 0; i < prompts.size(); ++i) {
      EXPECT_EQ(saved[i].tokens, first[i].tokens) << before << " ranks, request " << i;
      EXPECT_EQ(resumed[i].tokens, second[i].tokens) << after << " ranks, request " << i;
      EXPECT_EQ(resumed[i].usage.reused_from.host, 114U) << after << " ranks, request " << i;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Families, EnginePages,
                         ::testing::Values(core::Family::kLlama, core::Family::kGemma3),
                         [](const auto& of) {
                           return of.param == core::Family::kLlama ? "Llama" : "Gemma3";
                         });

}  // namespace
}  // namespace tandem::testing
