// Pages of real models that were saved and come back: the same answers on any number of ranks.

#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "core/cpu/cpu_operations.h"
#include "core/formats/model_file.h"
#include "kv_store/records/record.h"
#include "kv_store/tiers/memory_tier.h"
#include "parallel/sharding/shard_plan.h"
#include "tests/support/changed_bytes.h"
#include "tests/support/collecting_sink.h"
#include "tests/support/faulty_tier.h"
#include "tests/support/file_model.h"
#include "tests/support/local_cluster.h"
#include "tests/support/random.h"
#include "tests/support/tiny_model.h"

namespace tandem::testing {
namespace {

struct Case {
  const char* name;
  core::Family family;
  core::KvDtype kv_dtype;
  core::AttentionForm attention = {};
};

class TransformerRecords : public ::testing::TestWithParam<Case> {
 protected:
  TransformerRecords()
      : written_(WriteTinyModel({.family = GetParam().family,
                                 .layers = 7,
                                 .heads = 6,
                                 .kv_heads = 3,
                                 .window = 70,
                                 .seed = 5})),
        file_(*core::ModelFile::Open(written_.path())) {
    EXPECT_EQ(file_->SetAttention(GetParam().attention), absl::OkStatus());
  }

  std::unique_ptr<LocalCluster> Start(int ranks, kv_store::Tier* tier) {
    const auto plan = parallel::PlanShards(
        file_->config(), {.query_head = 3, .kv_head = 2, .ffn_column = 3, .vocab_row = 1},
        {.ranks = ranks, .weights = {}, .memory = {}});
    EXPECT_TRUE(plan.ok()) << plan.status();
    LocalCluster::Options options;
    options.ranks = ranks;
    options.rank.kv_dtype = GetParam().kv_dtype;
    options.rank.kv_memory = 64 << 20;
    options.rank.prefill_chunk = 64;
    options.rank.records.tier = tier;
    options.rank.records.fetch_deadline = std::chrono::seconds(30);
    options.rank.records.flush_deadline = std::chrono::seconds(30);
    options.model = [this, shards = plan->shards](int rank) {
      const core::Shard& shard = shards[static_cast<size_t>(rank)];
      return std::make_unique<FileModel>(
          *file_, shard,
          std::make_unique<core::CpuOperations>(file_->config(), shard,
                                                core::CpuOptions{.threads = 1}));
    };
    auto cluster = LocalCluster::Start(std::move(options));
    EXPECT_TRUE(cluster.ok()) << cluster.status();
    return *std::move(cluster);
  }

  /// The turn's answer is added to the history.
  parallel::Finish Turn(parallel::Engine& engine, std::vector<int32_t>& history) {
    parallel::EngineRequest request;
    request.prompt = history;
    request.max_tokens = 12;
    request.sampling.temperature = 0.9F;
    request.sampling.seed = 11;
    request.durable = true;
    CollectingSink sink;
    EXPECT_TRUE(engine.Submit(request, sink.Sink()).ok());
    const auto finish = sink.WaitForFinish();
    EXPECT_TRUE(finish.has_value());
    const auto tokens = sink.tokens();
    history.insert(history.end(), tokens.begin(), tokens.end());
    return finish.value_or(parallel::Finish());
  }

  std::vector<int32_t> Tokens(size_t count) {
    std::vector<int32_t> tokens(count);
    for (int32_t& token : tokens) token = static_cast<int32_t>(random_.Below(100));
    return tokens;
  }

  TempFile written_;
  std::unique_ptr<core::ModelFile> file_;
  SplitMix random_{3};
};

TEST_P(TransformerRecords, ATurnAfterARestartHasTheTokensOfAnUndisturbedRun) {
  const std::vector<int32_t> first = Tokens(170);
  const std::vector<int32_t> more = Tokens(40);
  std::vector<int32_t> undisturbed = first;
  {
    const auto cluster = Start(1, nullptr);
    Turn(cluster->engine(), undisturbed);
    undisturbed.insert(undisturbed.end(), more.begin(), more.end());
    Turn(cluster->engine(), undisturbed);
  }
  for (const int before : {1, 2, 3, 5}) {
    kv_store::MemoryTier memory({});
    FaultyTier tier(memory);
    std::vector<int32_t> history = first;
    {
      const auto cluster = Start(before, &tier);
      EXPECT_TRUE(Turn(cluster->engine(), history).saved);
    }
    history.insert(history.end(), more.begin(), more.end());
    tier.refuses = true;  // each of these finds what the first one left
    for (const int after : {1, 2, 3, 5}) {
      std::vector<int32_t> resumed = history;
      const auto cluster = Start(after, &tier);
      const parallel::Finish finish = Turn(cluster->engine(), resumed);
      EXPECT_EQ(finish.usage.reused_from.host, 181U) << before << " to " << after << " ranks";
      EXPECT_EQ(resumed, undisturbed) << before << " to " << after << " ranks";
    }
  }
}

class StateRecords : public TransformerRecords {};

TEST_P(StateRecords, WithoutAStateThePrefixIsComputedAgainAndUsageSaysWhy) {
  using parallel::ReuseLimit;
  kv_store::MemoryTier memory({});
  FaultyTier tier(memory);
  std::vector<int32_t> history = Tokens(240);
  {
    const auto cluster = Start(2, &tier);
    EXPECT_TRUE(Turn(cluster->engine(), history).saved);
  }
  const std::vector<int32_t> more = Tokens(40);
  history.insert(history.end(), more.begin(), more.end());
  std::vector<int32_t> undisturbed = history;
  Turn(Start(1, nullptr)->engine(), undisturbed);
  tier.refuses = true;

  // The state behind the first segment, of one head; without it the pages of that segment are left.
  kv_store::BlockHash hash = kv_store::TenantHash(0);
  for (size_t i = 0; i < 2; ++i) {
    hash = kv_store::ChainHash(hash, std::span(history).subspan(i * 64, 64));
  }
  const auto key_of = [&](int32_t kv_head) {
    return kv_store::RecordKeyOf({}, {.block = hash, .tokens = 64, .kv_head = kv_head, .group = 1});
  };
  const auto resume = [&](ReuseLimit expected, const char* what) {
    for (const int ranks : {1, 2, 3}) {
      std::vector<int32_t> resumed = history;
      const parallel::Finish finish = Turn(Start(ranks, &tier)->engine(), resumed);
      EXPECT_EQ(resumed, undisturbed) << what << ", " << ranks << " ranks";
      EXPECT_EQ(finish.usage.reused_tokens, 64) << what << ", " << ranks << " ranks";
      EXPECT_EQ(finish.usage.reuse_limit, expected) << what << ", " << ranks << " ranks";
    }
  };
  for (const int32_t kv_head : {0, 2}) {
    tier.on_get = [key = key_of(kv_head)](const kv_store::RecordKey& asked, auto& found) {
      if (asked == key) testing::Flip(found->bytes, found->bytes.size() / 2, std::byte{4});
    };
    resume(ReuseLimit::kDamaged, "damaged");
    tier.on_get = [key = key_of(kv_head)](const kv_store::RecordKey& asked, auto& found) {
      if (asked == key) found.reset();
    };
    resume(ReuseLimit::kDamaged, "gone when it is fetched");
    tier.on_get = nullptr;
  }
  tier.hides = [key = key_of(0)](const kv_store::RecordKey& asked) { return asked == key; };
  resume(ReuseLimit::kNoState, "missing");
}

TEST_P(StateRecords, APromptThatIsAskedAgainIsReusedWhateverWasAnswered) {
  const auto cluster = Start(2, nullptr);
  const std::vector<int32_t> prompt = Tokens(250);
  for (const int64_t reused : {0, 249, 249}) {
    std::vector<int32_t> history = prompt;
    EXPECT_EQ(Turn(cluster->engine(), history).usage.reused_tokens, reused) << "over a border";
  }
}

TEST_P(StateRecords, WhatAStepFillsAndLeavesBehindIsSaved) {
  kv_store::MemoryTier memory({});
  std::vector<int32_t> history = Tokens(450);
  Turn(Start(2, &memory)->engine(), history);
  kv_store::BlockHash hash = kv_store::TenantHash(0);
  for (size_t block = 0; block < 7; ++block) {
    hash = kv_store::ChainHash(hash, std::span(history).subspan(block * 64, 64));
    for (int32_t kv_head = 0; kv_head < 3; ++kv_head) {
      const auto key =
          kv_store::RecordKeyOf({}, {.block = hash, .tokens = 64, .kv_head = kv_head, .group = 0});
      EXPECT_TRUE(memory.Where(std::span(&key, 1)).front()) << block << ", KV head " << kv_head;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Models, StateRecords,
    ::testing::Values(Case{
        "LlamaInfini", core::Family::kLlama, core::KvDtype::kF16, {.segment = 128}}),
    [](const auto& kind) { return std::string(kind.param.name); });

INSTANTIATE_TEST_SUITE_P(
    Models, TransformerRecords,
    ::testing::Values(
        Case{"Llama", core::Family::kLlama, core::KvDtype::kF16},
        Case{"Gemma3", core::Family::kGemma3, core::KvDtype::kF16},
        Case{"Gemma3Float32", core::Family::kGemma3, core::KvDtype::kF32},
        Case{"LlamaFloat8", core::Family::kLlama, core::KvDtype::kF8},
        Case{"Gemma3Float8", core::Family::kGemma3, core::KvDtype::kF8},
        Case{"LlamaSparse", core::Family::kLlama, core::KvDtype::kF16, {.window = 40, .global = 3}},
        Case{"LlamaSparseRandom",
             core::Family::kLlama,
             core::KvDtype::kF16,
             {.window = 20, .global = 3, .random = 1, .seed = 5}},
        Case{"Gemma3Sparse",
             core::Family::kGemma3,
             core::KvDtype::kF16,
             {.window = 30, .global = 66}},
        Case{"LlamaInfini", core::Family::kLlama, core::KvDtype::kF16, {.segment = 64}},
        Case{"LlamaInfiniFloat8",
             core::Family::kLlama,
             core::KvDtype::kF8,
             {.segment = 128, .update = core::AttentionForm::Update::kLinear, .gate = 0.5F}},
        Case{"Gemma3Infini", core::Family::kGemma3, core::KvDtype::kF16, {.segment = 128}}),
    [](const auto& kind) { return std::string(kind.param.name); });

}  // namespace
}  // namespace tandem::testing
