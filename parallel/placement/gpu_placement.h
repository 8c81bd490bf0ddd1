#pragma once

#include <string>
#include <vector>

#include "core/base/status.h"
#include "parallel/communicators/communicator.h"

namespace tandem::parallel {

/// What a rank says of the GPUs that it may use.
struct GpuWish {
  bool wanted = false;            // it computes on a GPU
  std::vector<std::string> gpus;  // ids of those it sees, in its order
};

/// Which GPU a rank computes on.
struct GpuPlacement {
  int place = 0;    // in its wish
  int sharers = 1;  // ranks that compute on it
};

/// Gives each rank a GPU: the first of those it sees that the fewest ranks before it on its host
/// took. So ranks of a host that see the same GPUs take them in order, and ranks that were each
/// given their own (CUDA_VISIBLE_DEVICES) take that. hosts, wishes: [ranks]; result: [ranks], of
/// ranks that want one. kFailedPrecondition if ranks would share a GPU and `share` is not set,
/// naming the host.
absl::StatusOr<std::vector<GpuPlacement>> PlaceGpus(const std::vector<std::string>& hosts,
                                                    const std::vector<GpuWish>& wishes, bool share);

/// The same for this rank of `world`, by what all its ranks say; called by all together, with the
/// same `share`. All ranks get the same error.
absl::StatusOr<GpuPlacement> AgreeOnGpus(Communicator& world, const GpuWish& wish, bool share);

}  // namespace tandem::parallel
