#include "tests/parallel/coordinator/engine_suite.h"

#include <chrono>
#include <stdexcept>
#include <thread>

#include "parallel/engine/engine_server.h"
#include "parallel/engine/remote_engine.h"
#include "parallel/sharding/shard_plan.h"
#include "tests/support/fake_model.h"
#include "tests/support/lazy_memory.h"

namespace tandem::testing {
namespace {

/// Both ends of a link in one process.
struct Link {
  std::unique_ptr<parallel::EngineServer> server;
  std::unique_ptr<parallel::RemoteEngine> remote;
};

template <typename T>
T OrThrow(absl::StatusOr<T> value) {
  if (!value.ok()) throw std::runtime_error(Message(value.status()));
  return std::move(value).value();
}

}  // namespace

std::function<std::unique_ptr<core::Model>(int)> FakeShards(int ranks, bool lazy) {
  const auto plan = OrThrow(parallel::PlanShards(
      FakeConfig(),
      {.query_head = 1, .kv_head = 1, .ffn_column = 1, .vocab_row = 1, .every_rank = 0},
      {.ranks = ranks, .weights = {}, .memory = {}}));
  return [shards = plan.shards, lazy](int rank) {
    std::unique_ptr<core::DeviceMemory> memory;
    if (lazy) {
      memory = std::make_unique<LazyMemory>();
    } else {
      memory = std::make_unique<core::HostMemory>();
    }
    return std::make_unique<FakeModel>(FakeConfig(), shards[static_cast<size_t>(rank)],
                                       std::move(memory));
  };
}

EngineUnderTest MakeEngine(const EngineKind& kind, LocalCluster::Options options) {
  options.ranks = kind.ranks;
  options.zmq = kind.zmq_plans;
  if (!options.model) options.model = FakeShards(kind.ranks, kind.lazy);
  EngineUnderTest under_test;
  under_test.cluster = OrThrow(LocalCluster::Start(std::move(options)));
  under_test.engine = &under_test.cluster->engine();
  if (kind.remote) {
    const parallel::EngineLinkKeys keys = parallel::MakeEngineLinkKeys();
    auto link = std::make_shared<Link>();
    link->server = OrThrow(
        parallel::EngineServer::Create({.address = {.endpoint = parallel::MakeLocalEndpoint(),
                                                    .keys = keys.server,
                                                    .client_key = keys.client.public_key}},
                                       *under_test.engine));
    link->remote =
        OrThrow(parallel::RemoteEngine::Connect({.endpoint = link->server->endpoint(),
                                                 .server_key = keys.server.public_key,
                                                 .keys = keys.client,
                                                 .limits = {},
                                                 .reason_wait = std::chrono::milliseconds(300)},
                                                {}));
    under_test.engine = link->remote.get();
    under_test.between = std::move(link);
  }
  return under_test;
}

std::vector<int32_t> RandomPrompt(SplitMix& random, size_t length) {
  std::vector<int32_t> prompt;
  const auto vocab = static_cast<uint64_t>(FakeConfig().vocab);
  for (size_t i = 0; i < length; ++i) prompt.push_back(static_cast<int32_t>(random.Below(vocab)));
  return prompt;
}

parallel::EngineRequest Greedy(std::vector<int32_t> prompt, int32_t max_tokens) {
  parallel::EngineRequest request;
  request.prompt = std::move(prompt);
  request.max_tokens = max_tokens;
  return request;
}

std::vector<EngineKind> AllEngineKinds() {
  return {EngineKind{.name = "Threads1", .ranks = 1},
          EngineKind{.name = "Threads2", .ranks = 2},
          EngineKind{.name = "Threads3", .ranks = 3},
          EngineKind{.name = "Threads5", .ranks = 5},
          EngineKind{.name = "Zmq1", .ranks = 1, .zmq_plans = true},
          EngineKind{.name = "Zmq3", .ranks = 3, .zmq_plans = true},
          EngineKind{.name = "ZmqRemote1", .ranks = 1, .remote = true},
          EngineKind{.name = "ZmqRemote2", .ranks = 2, .zmq_plans = true, .remote = true}};
}

void EngineSuite::StartSlowly(LocalCluster::Options options) {
  options.model = [make = FakeShards(GetParam().ranks)](int rank) {
    std::unique_ptr<core::Model> model = make(rank);
    static_cast<FakeModel&>(*model).OnForward([](uint64_t) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
      return absl::OkStatus();
    });
    return model;
  };
  Start(std::move(options));
}

}  // namespace tandem::testing
