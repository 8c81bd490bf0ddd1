#include "parallel/placement/gpu_placement.h"

#include <algorithm>
#include <map>

#include "core/base/counted.h"
#include "parallel/communicators/gather_messages.h"

namespace tandem::parallel {
namespace {

absl::Status TooFew(const std::string& host, int64_t ranks, int64_t gpus) {
  return FailedPrecondition(
      "--device cuda: host {} has {} and {}; start no more than {} there, or let ranks share GPUs "
      "with --share-gpus",
      host, Counted(ranks, "rank"), Counted(gpus, "GPU"), Counted(gpus, "rank"));
}

}  // namespace

absl::StatusOr<std::vector<GpuPlacement>> PlaceGpus(const std::vector<std::string>& hosts,
                                                    const std::vector<GpuWish>& wishes,
                                                    bool share) {
  struct Host {
    std::map<std::string, int> users;  // of each GPU that a rank sees
    int64_t ranks = 0;                 // that want one
  };
  std::map<std::string, Host> of_hosts;
  std::vector<GpuPlacement> placements(wishes.size());
  for (size_t rank = 0; rank < wishes.size(); ++rank) {
    const GpuWish& wish = wishes[rank];
    if (!wish.wanted) continue;
    Host& host = of_hosts[hosts[rank]];
    ++host.ranks;
    if (wish.gpus.empty()) return TooFew(hosts[rank], host.ranks, 0);
    for (const std::string& gpu : wish.gpus) host.users.try_emplace(gpu, 0);
    const auto chosen = std::min_element(wish.gpus.begin(), wish.gpus.end(),
                                         [&](const std::string& a, const std::string& b) {
                                           return host.users.at(a) < host.users.at(b);
                                         });
    placements[rank].place = static_cast<int>(chosen - wish.gpus.begin());
    ++host.users.at(*chosen);
  }
  for (size_t rank = 0; rank < wishes.size(); ++rank) {
    if (!wishes[rank].wanted) continue;
    const Host& host = of_hosts.at(hosts[rank]);
    const std::string& gpu = wishes[rank].gpus[static_cast<size_t>(placements[rank].place)];
    placements[rank].sharers = host.users.at(gpu);
    if (placements[rank].sharers > 1 && !share) {
      return TooFew(hosts[rank], host.ranks, static_cast<int64_t>(host.users.size()));
    }
  }
  return placements;
}

template <typename Archive>
void Fields(Archive& archive, GpuWish& wish) {
  archive(wish.wanted, core::AtMost(wish.gpus, 1 << 10, "GPUs", [](auto& of, auto& gpu) {
            of(core::AtMost(gpu, 1 << 8, "bytes of a GPU's id"));
          }));
}

absl::StatusOr<GpuPlacement> AgreeOnGpus(Communicator& world, const GpuWish& wish, bool share) {
  TANDEM_ASSIGN_OR_RETURN(const std::vector<GpuWish> wishes, GatherMessages(world, wish));
  for (int rank = 1; rank < world.size(); ++rank) {
    const bool wanted = wishes[static_cast<size_t>(rank)].wanted;
    if (wanted == wishes[0].wanted) continue;
    const auto text = [](bool gpu) { return gpu ? "a GPU" : "a CPU"; };
    return FailedPrecondition("{} computes on {}, but {} on {}; start all ranks with one --device",
                              RankOnHost(world, rank), text(wanted), RankOnHost(world, 0),
                              text(wishes[0].wanted));
  }
  TANDEM_ASSIGN_OR_RETURN(const std::vector<GpuPlacement> placements,
                          PlaceGpus(world.hosts(), wishes, share));
  return placements[static_cast<size_t>(world.rank())];
}

}  // namespace tandem::parallel
