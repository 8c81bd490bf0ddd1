// Steps that the host puts into the GPU's stream while the one before them is computed.

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "core/device/device.h"
#include "parallel/links/linked_communicator.h"
#include "parallel/sharding/shard_plan.h"
#include "tests/cuda_emulation/gpus.h"
#include "tests/cuda_emulation/streams.h"
#include "tests/support/collecting_sink.h"
#include "tests/support/file_model.h"
#include "tests/support/local_cluster.h"
#include "tests/support/random.h"
#include "tests/support/tiny_model.h"

namespace tandem::testing {
namespace {

constexpr int32_t kVocab = 40;
constexpr int32_t kAnswer = 40;  // tokens

/// How the devices of several ranks meet.
enum class Meet { kNccl, kPeers, kHosts };

class CudaEngineAhead : public ::testing::TestWithParam<core::Family> {
 protected:
  CudaEngineAhead()
      : written_(WriteTinyModel({.family = GetParam(),
                                 .layers = 2,
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
  ~CudaEngineAhead() override { cuda_emulation::SetGpus({}); }

  std::unique_ptr<LocalCluster> Start(core::DeviceKind kind, int ranks, bool graphs = true,
                                      Meet meet = Meet::kNccl) {
    const auto plan = parallel::PlanShards(
        file_->config(), {.query_head = 3, .kv_head = 2, .ffn_column = 3, .vocab_row = 1},
        {.ranks = ranks, .weights = {}, .memory = {}});
    EXPECT_TRUE(plan.ok()) << plan.status();
    LocalCluster::Options options;
    options.ranks = ranks;
    options.rank.prefill_chunk = 64;
    options.model = [this, kind, graphs, shards = plan->shards](int of_rank) {
      const core::Shard& shard = shards[static_cast<size_t>(of_rank)];
      core::DeviceOptions device{.kind = kind, .cpu = {.threads = 1}, .gpu = {}, .graphs = graphs};
      device.gpu.index = of_rank;
      return std::make_unique<FileModel>(*file_, shard,
                                         *core::MakeDevice(device, file_->config(), shard));
    };
    if (kind == core::DeviceKind::kCuda && ranks > 1 && meet != Meet::kHosts) {
      options.link = [meet](parallel::Communicator& world, core::Model& model) {
        parallel::LinkWish wish{.device = static_cast<FileModel&>(model).operations()};
        if (meet == Meet::kNccl) wish.linker = core::OpenLinker(core::DeviceKind::kCuda);
        if (meet == Meet::kPeers) wish.peer_linker = core::OpenPeerLinker(core::DeviceKind::kCuda);
        auto linked = parallel::LinkDevices(world, wish);
        EXPECT_TRUE(linked.ok()) << linked.status();
        EXPECT_NE(linked->world, nullptr) << linked->problem;
        return std::move(linked->world);
      };
    }
    auto cluster = LocalCluster::Start(std::move(options));
    EXPECT_TRUE(cluster.ok()) << cluster.status();
    return *std::move(cluster);
  }

  using Change = std::function<void(size_t i, parallel::EngineRequest& request)>;

  /// Answers to prompts that are asked at once.
  static std::vector<std::vector<int32_t>> Ask(parallel::Engine& engine, size_t count,
                                               const Change& change = nullptr) {
    std::vector<CollectingSink> sinks(count);
    for (size_t i = 0; i < count; ++i) {
      parallel::EngineRequest request;
      request.prompt = RandomTokens(10 + static_cast<int>(i) * 30, kVocab, 3 + i);
      request.max_tokens = kAnswer;
      if (change) change(i, request);
      EXPECT_TRUE(engine.Submit(request, sinks[i].Sink()).ok());
    }
    std::vector<std::vector<int32_t>> answers;
    for (CollectingSink& sink : sinks) {
      const auto finish = sink.WaitForFinish();
      EXPECT_TRUE(finish.has_value() && finish->status.ok()) << finish->status;
      answers.push_back(sink.tokens());
    }
    return answers;
  }

  TempFile written_;
  std::unique_ptr<core::ModelFile> file_;
};

/// The last chunk of this prompt is one token, as a step of decoding has.
TEST_P(CudaEngineAhead, LogitsOfAPromptAreThereWhereItsLastTokenIsAlone) {
  const auto logits = [&](core::DeviceKind kind, int ranks) {
    const auto cluster = Start(kind, ranks);
    CollectingSink sink;
    parallel::EngineRequest request;
    request.prompt = RandomTokens(65, kVocab, 3);
    request.max_tokens = 3;
    request.want_prompt_logits = true;
    EXPECT_TRUE(cluster->engine().Submit(request, sink.Sink()).ok());
    EXPECT_TRUE(sink.WaitForFinish().has_value());
    return sink.logits();
  };
  const auto expected = logits(core::DeviceKind::kCpu, 1);
  ASSERT_EQ(expected.size(), 65U);
  for (const int ranks : {1, 2}) {
    EXPECT_EQ(logits(core::DeviceKind::kCuda, ranks), expected) << ranks << " ranks";
  }
}

/// While one sequence decodes, rank 0 launches each step before the one before it is done, but for
/// those that are put into the stream kernel by kernel: the first of each shape.
TEST_P(CudaEngineAhead, DecodingWaitsForNoStep) {
  const auto expected = Ask(Start(core::DeviceKind::kCpu, 1)->engine(), 1);
  for (const int ranks : {1, 2, 3}) {
    for (const Meet meet : {Meet::kNccl, Meet::kPeers}) {
      const auto cluster = Start(core::DeviceKind::kCuda, ranks, true, meet);
      const uint64_t launched = cuda_emulation::GraphLaunches();
      const uint64_t ahead = cuda_emulation::GraphLaunchesAhead(0);
      EXPECT_EQ(Ask(cluster->engine(), 1), expected) << ranks << " ranks";
      const uint64_t each =
          (cuda_emulation::GraphLaunches() - launched) / static_cast<uint64_t>(ranks);
      EXPECT_GE(each, kAnswer * 8 / 10) << ranks << " ranks";
      EXPECT_GE(cuda_emulation::GraphLaunchesAhead(0) - ahead, each - 3) << ranks << " ranks";
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Families, CudaEngineAhead,
                         ::testing::Values(core::Family::kLlama, core::Family::kGemma3),
                         [](const auto& of) {
                           return of.param == core::Family::kLlama ? "Llama" : "Gemma3";
                         });

class CudaAnswersAhead : public CudaEngineAhead {};

TEST_P(CudaAnswersAhead, AreTheSameOnEveryWay) {
  const Change change = [](size_t i, parallel::EngineRequest& request) {
    request.max_tokens -= static_cast<int32_t>(7 * i);
    if (i == 1) request.sampling.repetition_penalty = 1.2F;
    if (i == 2) {
      request.sampling.temperature = 0.9F;
      request.sampling.seed = 4;
      request.max_tokens = 9;
    }
    if (i == 3) request.stop_tokens = {1, 2, 3, 4, 5};
  };
  const auto expected = Ask(Start(core::DeviceKind::kCpu, 1)->engine(), 4, change);
  for (const int ranks : {1, 2, 3}) {
    for (const Meet meet : {Meet::kNccl, Meet::kPeers, Meet::kHosts}) {
      if (ranks == 1 && meet != Meet::kHosts) continue;
      for (const bool graphs : {true, false}) {
        if (!graphs && meet == Meet::kPeers) continue;
        EXPECT_EQ(Ask(Start(core::DeviceKind::kCuda, ranks, graphs, meet)->engine(), 4, change),
                  expected)
            << ranks << " ranks, way " << static_cast<int>(meet) << (graphs ? "" : ", no graphs");
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Families, CudaAnswersAhead, ::testing::Values(core::Family::kGemma3),
                         [](const auto&) { return "Gemma3"; });

}  // namespace
}  // namespace tandem::testing
