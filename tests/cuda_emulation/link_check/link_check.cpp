#include <cstdio>
#include <cstdlib>
#include <string_view>

#include "parallel/communicators/mpi_communicator.h"
#include "tests/cuda_emulation/linked_ranks.h"
#include "tests/parallel/communicators/communicator_suite.h"

/// Runs the communicator suite on the emulated GPUs of an MPI job, joined by memory that all
/// processes map: link_check RANKS [shared]. With `shared` all ranks use one GPU. Prints one line a
/// failed case; rank 0 says how many passed. Exit status 1 on any failure.
namespace tandem::parallel {
namespace {

absl::Status Check(Communicator& world, bool shared) {
  LinkedRank rank(world, shared ? 0 : world.rank());
  TANDEM_RETURN_IF_ERROR(rank.Link({.peers = true, .shares_device = shared}));
  OnDevices devices(*rank.linked, *rank.device);
  const std::vector<CommunicatorCase> suite = CommunicatorSuite();
  for (const CommunicatorCase& each : suite) {
    const absl::Status status = each.run(devices);
    if (!status.ok()) return Internal("{}: {}", each.name, Message(status));
  }
  if (world.rank() == 0) {
    std::printf("%zu cases by %s\n", suite.size(), std::string(rank.linked->link_name()).c_str());
  }
  // Nobody leaves while others still read what it gave last.
  return world.Barrier();
}

}  // namespace
}  // namespace tandem::parallel

int main(int argc, char** argv) {
  using namespace tandem::parallel;
  MpiOptions options;
  if (argc > 1) options.expected_ranks = std::atoi(argv[1]);
  auto world = CreateWorld(options);
  if (!world.ok()) {
    std::fprintf(stderr, "%s\n", tandem::Message(world.status()).c_str());
    return 1;
  }
  const absl::Status status = Check(**world, argc > 2 && std::string_view(argv[2]) == "shared");
  if (!status.ok()) {
    std::fprintf(stderr, "%s: %s\n", RankOnHost(**world, (*world)->rank()).c_str(),
                 tandem::Message(status).c_str());
  }
  return status.ok() ? 0 : 1;
}
