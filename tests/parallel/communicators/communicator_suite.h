#pragma once

#include <functional>
#include <string>
#include <vector>

#include "parallel/communicators/communicator.h"

namespace tandem::parallel {

/// One case of the suite that every communicator must pass. Every rank runs it; OK or what was
/// wrong.
struct CommunicatorCase {
  std::string name;
  std::function<absl::Status(Communicator& world)> run;
};

/// The cases, in the order in which one world can run them all.
std::vector<CommunicatorCase> CommunicatorSuite();

}  // namespace tandem::parallel
