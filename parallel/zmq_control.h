#pragma once

#include <chrono>
#include <memory>
#include <string>

#include "core/status.h"
#include "parallel/communicator.h"
#include "parallel/control_channel.h"

namespace tandem::parallel {

struct ZmqControlOptions {
  /// Where rank 0 listens: an interface name ("eth0"), an address, or empty: chosen so that all
  /// hosts reach it.
  std::string interface;
};

}  // namespace tandem::parallel
