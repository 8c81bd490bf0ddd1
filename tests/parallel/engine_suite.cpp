#include "tests/parallel/engine_suite.h"

#include "parallel/shard_plan.h"
#include "tests/support/fake_model.h"

namespace tandem::testing {

std::function<std::unique_ptr<core::Model>(int)> FakeShards(int ranks) {
  const auto plan = parallel::PlanShards(
      FakeConfig(), {.query_head = 1, .kv_head = 1, .ffn_column = 1, .vocab_row = 1},
      {.ranks = ranks, .weights = {}, .memory = {}});
  if (!plan.ok()) throw std::runtime_error(Message(plan.status()));
  return [shards = plan->shards](int rank) {
    return std::make_unique<FakeModel>(FakeConfig(), shards[static_cast<size_t>(rank)]);
  };
}

EngineUnderTest MakeEngine(const EngineKind& kind, LocalCluster::Options options) {
  options.ranks = kind.ranks;
  options.zmq = kind.zmq_plans;
  if (!options.model) options.model = FakeShards(kind.ranks);
  auto cluster = LocalCluster::Start(std::move(options));
  if (!cluster.ok()) throw std::runtime_error(Message(cluster.status()));
  EngineUnderTest under_test;
  under_test.cluster = std::move(cluster).value();
  under_test.engine = &under_test.cluster->engine();
  return under_test;
}

}  // namespace tandem::testing
