#pragma once

#include <memory>
#include <thread>
#include <vector>

#include "parallel/communicators/communicator.h"

namespace tandem::parallel {

/// Runs body(world) on a thread per rank and gives back each rank's status. A communicator is
/// destroyed when its body returns.
template <typename Body>
std::vector<absl::Status> RunRanks(std::vector<std::unique_ptr<Communicator>> worlds, Body body) {
  std::vector<absl::Status> statuses(worlds.size());
  std::vector<std::thread> threads;
  for (size_t r = 0; r < worlds.size(); ++r) {
    threads.emplace_back([&body, &status = statuses[r], world = std::move(worlds[r])]() mutable {
      status = body(*world);
      world.reset();
    });
  }
  for (std::thread& thread : threads) thread.join();
  return statuses;
}

}  // namespace tandem::parallel
