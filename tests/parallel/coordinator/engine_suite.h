#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "parallel/engine/engine.h"
#include "tests/support/collecting_sink.h"
#include "tests/support/local_cluster.h"
#include "tests/support/random.h"

namespace tandem::testing {

/// An engine under test and whatever must live as long as it.
struct EngineUnderTest {
  std::unique_ptr<LocalCluster> cluster;
  std::shared_ptr<void> between;  // what stands between the cluster and `engine`; ends first
  parallel::Engine* engine = nullptr;
};

/// One way to have an engine: how many ranks, and how they are reached.
struct EngineKind {
  std::string name;
  int ranks = 1;
  bool zmq_plans = false;
  bool remote = false;
  bool spills = false;  // pages of preempted requests are kept in a host tier
  bool lazy = false;    // copies of pages are made as late as they may (LazyMemory)
};

/// An engine of FakeModels (or what options.model makes).
EngineUnderTest MakeEngine(const EngineKind& kind, LocalCluster::Options options);

/// A factory of FakeModel shards for `ranks` ranks. lazy: as EngineKind has it.
std::function<std::unique_ptr<core::Model>(int)> FakeShards(int ranks, bool lazy = false);

/// So many tokens of FakeModel's vocabulary.
std::vector<int32_t> RandomPrompt(SplitMix& random, size_t length);
/// A request for the likeliest tokens.
parallel::EngineRequest Greedy(std::vector<int32_t> prompt, int32_t max_tokens);

/// Threads and ZeroMQ, at several numbers of ranks.
std::vector<EngineKind> AllEngineKinds();

/// What the tests of all kinds of engines share.
class EngineSuite : public ::testing::TestWithParam<EngineKind> {
 protected:
  void Start(LocalCluster::Options options = {}) {
    under_test_ = MakeEngine(GetParam(), std::move(options));
  }
  /// Steps take a millisecond, so that a request of hundreds of tokens is open for a while.
  void StartSlowly(LocalCluster::Options options = {});
  parallel::Engine& engine() { return *under_test_.engine; }

  parallel::RequestId Submit(parallel::EngineRequest request, CollectingSink& sink) {
    const auto id = engine().Submit(std::move(request), sink.Sink());
    EXPECT_TRUE(id.ok()) << id.status();
    return id.value_or(0);
  }
  absl::Status SubmitError(parallel::EngineRequest request) {
    return engine().Submit(std::move(request), {}).status();
  }

  EngineUnderTest under_test_;
};

}  // namespace tandem::testing
