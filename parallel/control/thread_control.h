#pragma once

#include <memory>
#include <string>
#include <vector>

#include "parallel/control/control_channel.h"

namespace tandem::parallel {

struct ThreadControl {
  std::unique_ptr<ControlLeader> leader;
  std::vector<std::unique_ptr<ControlFollower>> followers;  // of ranks 1, 2, ...
};

/// A control channel between threads of one process. hosts: of every rank, for messages; one host
/// makes a leader without followers.
ThreadControl MakeThreadControl(const std::vector<std::string>& hosts);

}  // namespace tandem::parallel
