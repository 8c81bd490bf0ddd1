#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "parallel/communicators/communicator.h"

namespace tandem::parallel {

struct ThreadWorldOptions {
  /// How long a rank waits for the others before the world fails, naming who is missing. Zero:
  /// forever.
  std::chrono::milliseconds timeout{0};
  /// For tests: every call sleeps for a random time up to this, before and after it meets the
  /// others, so that ranks come in any order.
  std::chrono::microseconds disturbance{0};
  uint64_t disturbance_seed = 1;
  /// [ranks] names to go by; empty: this machine's name for all.
  std::vector<std::string> hosts;
};

/// A world whose ranks are threads of this process: element r belongs to the thread that plays rank
/// r. ranks >= 1.
///
/// A rank that disagrees with the others about the operation or its size, comes too late or is
/// destroyed ends the world: every waiter and every later call gets an error that names it.
/// Communicators may be destroyed in any order, from any thread.
std::vector<std::unique_ptr<Communicator>> MakeThreadWorld(int ranks,
                                                           ThreadWorldOptions options = {});

}  // namespace tandem::parallel
