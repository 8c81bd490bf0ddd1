#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string_view>
#include <thread>

#include "parallel/communicators/mpi_communicator.h"
#include "tests/parallel/communicators/communicator_suite.h"

/// Runs the communicator suite as one rank of an MPI job: communicator_check RANKS [WAY]. Ways:
/// `pieces` cuts all messages small, `mpi` shares no memory, `mpi_pieces` both, `sleep` never
/// polls. Prints one line a failed case; rank 0 says how many passed. Exit status 1 on any failure.
/// `communicator_check RANKS abort` instead lets rank 0 end the job while all ranks hang.
namespace tandem::parallel {
namespace {

int Check(const MpiOptions& options, bool poll) {
  absl::StatusOr<std::unique_ptr<Communicator>> world = CreateWorld(options);
  if (!world.ok()) {
    std::fprintf(stderr, "%s\n", Message(world.status()).c_str());
    return 1;
  }
  const std::chrono::microseconds none(0);
  int failed = 0;
  if (!(*world)->SetPatience(poll ? CollectivePatience() : CollectivePatience{.spin = none}).ok()) {
    ++failed;
  }
  const std::vector<CommunicatorCase> suite = CommunicatorSuite();
  for (const CommunicatorCase& each : suite) {
    const absl::Status status = each.run(**world);
    if (status.ok()) continue;
    ++failed;
    std::fprintf(stderr, "%s: %s: %s\n", RankOnHost(**world, (*world)->rank()).c_str(),
                 each.name.c_str(), Message(status).c_str());
  }
  // The step loop's thread may call while the main thread does not.
  std::thread([&] {
    if (suite.front().run(**world).ok()) return;
    ++failed;
    std::fprintf(stderr, "a second thread could not call\n");
  }).join();
  if ((*world)->rank() == 0) std::printf("%zu cases, %d failed\n", suite.size(), failed);
  return failed == 0 ? 0 : 1;
}

/// Rank 0's main thread hangs in a barrier to which nobody comes, the others sleep; a second thread
/// of rank 0 ends it all, as a watchdog would.
int CheckAbort(const MpiOptions& options) {
  absl::StatusOr<std::unique_ptr<Communicator>> world = CreateWorld(options);
  if (!world.ok() || !(*world)->Barrier().ok()) return 1;
  if ((*world)->rank() != 0) {
    std::this_thread::sleep_for(std::chrono::seconds(60));
    return 1;
  }
  std::thread watchdog([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
    (*world)->Abort(Unavailable("a rank is late"));
  });
  const absl::Status status = (*world)->Barrier();
  watchdog.join();
  return 1;
}

}  // namespace
}  // namespace tandem::parallel

int main(int argc, char** argv) {
  tandem::parallel::MpiOptions options;
  if (argc > 1) options.expected_ranks = std::atoi(argv[1]);
  const std::string_view way = argc > 2 ? argv[2] : "";
  if (way == "abort") return tandem::parallel::CheckAbort(options);
  if (way == "pieces" || way == "mpi_pieces") {
    options.largest_count = 1000;
    options.host = {.slot_bytes = 8192, .one_shot_bytes = 4096};
    options.exchange = {.segment = 300, .bytes_of_a_way = 2000, .few_sums = 50};
  }
  options.shared_memory = way != "mpi" && way != "mpi_pieces";
  return tandem::parallel::Check(options, way != "sleep");
}
