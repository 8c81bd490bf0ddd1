#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "core/base/status.h"
#include "parallel/communicators/communicator.h"

namespace tandem::parallel {

/// Something that must be the same on all ranks, e.g. {"model fingerprint", "8f3a..."}.
struct WorldFact {
  std::string name;
  std::string value;
};

/// A number as the 16 hexadecimal digits that people compare.
std::string HexText(uint64_t number);

/// Compares the facts of all ranks and refuses the world, on every rank with the same message, if
/// any differs; the message names the fact, its values, and which ranks and hosts have them.
///
/// Every rank calls it with the same facts in the same order (a rank of another program version may
/// have others; that is a difference like any other). Uses AllGather only.
/// Errors: kFailedPrecondition for a difference; otherwise those of the communicator.
absl::Status CheckWorld(Communicator& world, std::span<const WorldFact> facts);

/// The facts that every engine compares.
struct EngineIdentity {
  std::string program_version;
  std::string numerics_version;
  uint64_t model_fingerprint = 0;
  uint64_t plan_hash = 0;
  std::vector<WorldFact> options;  // that change results or the order of collectives
};
std::vector<WorldFact> FactsOf(const EngineIdentity& identity);

}  // namespace tandem::parallel
