#include <mpi.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <random>
#include <string_view>
#include <vector>

#include "parallel/communicators/mpi_communicator.h"

/// One rank of tests/bench/allreduce: times the world's all-reduce and plain MPI_Allreduce of
/// int64, interleaved, and prints a table. Arguments: [--slot BYTES] [--one-shot BYTES] [--stream
/// BYTES] [--no-spin]
/// [--work MICROSECONDS], the last of which lets every rank compute between two all-reduces.
namespace tandem::parallel {
namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kSizes[] = {64, 576, 2048, 8192, 16 * 576, 128 * 576, 512 * 576, 512 * 2048};
constexpr int kRounds = 15;

struct Arguments {
  MpiOptions mpi;
  bool spin = true;
  std::chrono::microseconds work{0};
};

bool Parse(int argc, char** argv, Arguments& arguments) {
  for (int i = 1; i < argc; ++i) {
    const std::string_view flag = argv[i];
    if (flag == "--no-spin") {
      arguments.spin = false;
      continue;
    }
    int64_t value = 0;
    if (i + 1 == argc) return false;
    const char* text = argv[++i];
    if (std::from_chars(text, text + std::strlen(text), value).ec != std::errc()) return false;
    if (flag == "--slot") {
      arguments.mpi.host.slot_bytes = value;
    } else if (flag == "--one-shot") {
      arguments.mpi.host.one_shot_bytes = value;
    } else if (flag == "--stream") {
      arguments.mpi.host.stream_bytes = value;
    } else if (flag == "--work") {
      arguments.work = std::chrono::microseconds(value);
    } else {
      return false;
    }
  }
  return true;
}

void Compute(std::chrono::microseconds time) {
  if (time.count() == 0) return;
  for (const Clock::time_point end = Clock::now() + time; Clock::now() < end;) {
  }
}

double Median(std::vector<double> samples) {
  std::sort(samples.begin(), samples.end());
  return samples[samples.size() / 2];
}

int Run(const Arguments& arguments) {
  absl::StatusOr<std::unique_ptr<Communicator>> world = CreateWorld(arguments.mpi);
  if (!world.ok()) {
    std::fprintf(stderr, "%s\n", Message(world.status()).c_str());
    return 1;
  }
  const std::chrono::microseconds none(0);
  absl::Status status = (*world)->SetPatience(arguments.spin ? CollectivePatience()
                                                             : CollectivePatience{.spin = none});
  const bool tells = (*world)->rank() == 0;
  if (tells) {
    std::printf(
        "| int64 | bytes | MPI_Allreduce, us | ours, us | ratio |\n|---|---|---|---|---|\n");
  }
  for (const size_t size : kSizes) {
    // As large as the sums of a forward pass, in multiples of 2^-32: their bytes count between
    // hosts.
    std::vector<int64_t> parts(size);
    std::mt19937_64 random(size);
    for (int64_t& part : parts) part = static_cast<int64_t>(random()) >> 26;
    std::vector<int64_t> values;
    const int repeats = static_cast<int>(std::clamp<size_t>((size_t{1} << 20) / size, 4, 300));
    // Microseconds of one all-reduce, the average over many in a row.
    const auto time = [&](auto all_reduce) {
      static_cast<void>((*world)->Barrier());
      std::chrono::duration<double, std::micro> spent(0);
      for (int i = 0; i < repeats; ++i) {
        values = parts;
        const Clock::time_point begin = Clock::now();
        Compute(arguments.work);
        all_reduce();
        spent += Clock::now() - begin - arguments.work;
      }
      return spent.count() / repeats;
    };
    std::vector<double> plain;
    std::vector<double> ours;
    for (int round = 0; round < kRounds && status.ok(); ++round) {
      plain.push_back(time([&] {
        MPI_Allreduce(MPI_IN_PLACE, values.data(), static_cast<int>(size), MPI_INT64_T, MPI_SUM,
                      MPI_COMM_WORLD);
      }));
      ours.push_back(time([&] { status.Update((*world)->AllReducePartialSums(values, {})); }));
    }
    if (!status.ok()) {
      std::fprintf(stderr, "%s\n", Message(status).c_str());
      return 1;
    }
    if (tells) {
      std::printf("| %zu | %zu | %.2f | %.2f | %.2f |\n", size, size * sizeof(int64_t),
                  Median(plain), Median(ours), Median(plain) / Median(ours));
      std::fflush(stdout);
    }
  }
  return 0;
}

}  // namespace
}  // namespace tandem::parallel

int main(int argc, char** argv) {
  tandem::parallel::Arguments arguments;
  if (!tandem::parallel::Parse(argc, argv, arguments)) {
    std::fprintf(stderr,
                 "usage: allreduce_bench [--slot BYTES] [--one-shot BYTES] [--stream BYTES] "
                 "[--no-spin] [--work MICROSECONDS]\n");
    return 2;
  }
  return tandem::parallel::Run(arguments);
}
