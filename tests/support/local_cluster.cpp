#include "tests/support/local_cluster.h"

#include <utility>

#include "parallel/control/thread_control.h"

namespace tandem::testing {
namespace {

parallel::RankOptions OptionsOf(const LocalCluster::Options& options, size_t rank) {
  parallel::RankOptions own = options.rank;
  if (!options.phases.empty()) own.phases = options.phases[rank];
  return own;
}

}  // namespace

absl::StatusOr<std::unique_ptr<LocalCluster>> LocalCluster::Start(Options options) {
  std::unique_ptr<LocalCluster> cluster(new LocalCluster());
  const auto ranks = static_cast<size_t>(options.ranks);
  cluster->worlds_ = parallel::MakeThreadWorld(options.ranks, options.world);
  cluster->models_.resize(ranks);
  cluster->linked_.resize(ranks);
  cluster->statuses_.resize(ranks);
  const auto world_of = [self = cluster.get(), link = options.link](size_t rank) {
    parallel::Communicator& world = *self->worlds_[rank];
    if (!link) return &world;
    self->linked_[rank] = link(world, *self->models_[rank]);
    return self->linked_[rank].get();
  };
  parallel::ThreadControl control = parallel::MakeThreadControl(cluster->worlds_[0]->hosts());
  for (size_t rank = 1; rank < ranks; ++rank) {
    cluster->followers_.emplace_back([self = cluster.get(), rank, options, world_of,
                                      follower = std::move(control.followers[rank - 1])]() mutable {
      auto& model = self->models_[rank];
      model = options.model(static_cast<int>(rank));
      parallel::Communicator* const world = world_of(rank);
      const parallel::RankOptions own = OptionsOf(options, rank);
      self->statuses_[rank] = options.zmq ? parallel::RunRank(own, *world, *model).status()
                                          : parallel::RunFollower(own, *world, *model, *follower);
      follower.reset();
      if (!self->statuses_[rank].ok()) world->Abort(self->statuses_[rank]);
    });
  }
  cluster->models_[0] = options.model(0);
  parallel::Communicator* const world = world_of(0);
  const parallel::RankOptions own = OptionsOf(options, 0);
  auto engine = options.zmq ? parallel::RunRank(own, *world, *cluster->models_[0])
                            : parallel::RunLeader(own, *world, *cluster->models_[0],
                                                  std::move(control.leader));
  if (!engine.ok()) {
    control.leader.reset();
    return engine.status();
  }
  cluster->engine_ = std::move(engine).value();
  return cluster;
}

std::vector<absl::Status> LocalCluster::Stop() {
  engine_.reset();
  for (std::thread& follower : followers_) {
    if (follower.joinable()) follower.join();
  }
  return {statuses_.begin() + 1, statuses_.end()};
}

LocalCluster::~LocalCluster() { Stop(); }

}  // namespace tandem::testing
