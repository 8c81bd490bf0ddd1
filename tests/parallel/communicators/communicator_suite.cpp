#include "tests/parallel/communicators/communicator_suite.h"

#include <algorithm>
#include <bit>
#include <limits>
#include <numeric>
#include <random>

namespace tandem::parallel {
namespace {

constexpr core::StepPhase kPhase = {7, 3, core::StepPhase::Kind::kAttention};

/// A number that depends on rank and index and uses all 64 bits.
int64_t Value(int rank, size_t index) {
  uint64_t x = static_cast<uint64_t>(rank) * 0x9E3779B97F4A7C15 + index + 1;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EB;
  // A world of 256 ranks stays within int64.
  return static_cast<int64_t>(x ^ (x >> 31)) / 256;
}

absl::Status SumsAreExact(Communicator& world, size_t size) {
  std::vector<int64_t> values(size);
  for (size_t i = 0; i < size; ++i) values[i] = Value(world.rank(), i);
  TANDEM_RETURN_IF_ERROR(world.AllReduceSum(values, kPhase));
  for (size_t i = 0; i < size; ++i) {
    int64_t expected = 0;
    for (int rank = 0; rank < world.size(); ++rank) expected += Value(rank, i);
    if (values[i] != expected) {
      return Internal("sum {} of {} is {}, expected {}", i, size, values[i], expected);
    }
  }
  return absl::OkStatus();
}

absl::Status GatherIsInRankOrder(Communicator& world, size_t size) {
  std::vector<std::byte> mine(size);
  const auto byte = [](int rank, size_t i) { return static_cast<std::byte>(Value(rank, i) & 255); };
  for (size_t i = 0; i < size; ++i) mine[i] = byte(world.rank(), i);
  std::vector<std::byte> all(size * static_cast<size_t>(world.size()));
  TANDEM_RETURN_IF_ERROR(world.AllGather(mine, all, kPhase));
  for (int rank = 0; rank < world.size(); ++rank) {
    for (size_t i = 0; i < size; ++i) {
      if (all[static_cast<size_t>(rank) * size + i] == byte(rank, i)) continue;
      return Internal("byte {} of {} of rank {} is wrong", i, size, rank);
    }
  }
  return absl::OkStatus();
}

absl::Status BroadcastIsFromRankZero(Communicator& world, size_t size) {
  std::vector<std::byte> bytes(size, static_cast<std::byte>(world.rank() + 1));
  TANDEM_RETURN_IF_ERROR(world.Broadcast(bytes));
  if (std::all_of(bytes.begin(), bytes.end(), [](std::byte b) { return b == std::byte{1}; })) {
    return absl::OkStatus();
  }
  return Internal("a broadcast of {} bytes did not bring rank 0's", size);
}

absl::Status StringsTakeRankZerosSize(Communicator& world) {
  std::string text = world.rank() == 0 ? "from rank 0, longer than the others" : "short";
  TANDEM_RETURN_IF_ERROR(BroadcastString(world, text));
  if (text != "from rank 0, longer than the others") return Internal("got '{}'", text);
  text = world.rank() == 0 ? "" : "not empty";
  TANDEM_RETURN_IF_ERROR(BroadcastString(world, text));
  return text.empty() ? absl::OkStatus() : Internal("got '{}', expected nothing", text);
}

absl::Status PlacesAreConsistent(Communicator& world) {
  if (static_cast<int>(world.hosts().size()) != world.size()) {
    return Internal("{} hosts for {} ranks", world.hosts().size(), world.size());
  }
  if (world.host().empty()) return Internal("the host has no name");
  if (world.local_rank() < 0 || world.local_rank() >= world.local_size() ||
      world.local_size() > world.size()) {
    return Internal("rank {} is {} of {} on its host", world.rank(), world.local_rank(),
                    world.local_size());
  }
  std::vector<int64_t> ranks(static_cast<size_t>(world.size()));
  ranks[static_cast<size_t>(world.rank())] = 1;
  TANDEM_RETURN_IF_ERROR(world.AllReduceSum(ranks, {}));
  const bool each_once = std::all_of(ranks.begin(), ranks.end(), [](int64_t n) { return n == 1; });
  return each_once ? absl::OkStatus() : Internal("ranks are not numbered once each");
}

/// Many small operations of mixed kinds in a random order that all ranks share.
absl::Status ManyOperationsStayInStep(Communicator& world) {
  std::mt19937 random(11);
  for (int i = 0; i < 300; ++i) {
    const size_t size = random() % 40;
    switch (random() % 4) {
      case 0:
        TANDEM_RETURN_IF_ERROR(SumsAreExact(world, size));
        break;
      case 1:
        TANDEM_RETURN_IF_ERROR(GatherIsInRankOrder(world, size));
        break;
      case 2:
        TANDEM_RETURN_IF_ERROR(BroadcastIsFromRankZero(world, size));
        break;
      default:
        TANDEM_RETURN_IF_ERROR(world.Barrier());
    }
  }
  return absl::OkStatus();
}

/// Sums of sizes that go up and down, so that what is left of one must not show in the next. Most
/// are small, as in decode; some longer than any piece.
absl::Status SumsOfRandomSizes(Communicator& world) {
  std::mt19937 random(23);
  for (int i = 0; i < 400; ++i) {
    const size_t most = i % 20 == 0 ? 50000 : i % 5 == 0 ? 5000 : 700;
    TANDEM_RETURN_IF_ERROR(SumsAreExact(world, random() % most));
  }
  return absl::OkStatus();
}

/// Leaves up to 2^22 in multiples of 2^-32 need 54 bits and a sign; their sums must not saturate.
absl::Status LargeSumsAreExact(Communicator& world) {
  const int64_t leaf = int64_t{1} << 54;
  std::vector<int64_t> values = {leaf, -leaf, world.rank() == 0 ? leaf : -leaf, 0};
  TANDEM_RETURN_IF_ERROR(world.AllReduceSum(values, kPhase));
  const int64_t n = world.size();
  const std::vector<int64_t> expected = {leaf * n, -leaf * n, leaf - leaf * (n - 1), 0};
  return values == expected ? absl::OkStatus() : Internal("a large sum is wrong");
}

/// Sums that are only rounded may differ between ranks; rounded they have the same bits as exact
/// ones. Their sizes go up to where a rounded sum is next to the largest integer.
absl::Status LeafSumsRoundAsExactOnes(Communicator& world, size_t size) {
  std::vector<int64_t> values(size);
  const auto value = [](int rank, size_t i) { return Value(rank, i) >> (i % 64); };
  for (size_t i = 0; i < size; ++i) values[i] = value(world.rank(), i);
  TANDEM_RETURN_IF_ERROR(world.AllReducePartialSums(values, kPhase));
  for (size_t i = 0; i < size; ++i) {
    int64_t expected = 0;
    for (int rank = 0; rank < world.size(); ++rank) expected += value(rank, i);
    if (std::bit_cast<uint32_t>(static_cast<float>(values[i])) !=
        std::bit_cast<uint32_t>(static_cast<float>(expected))) {
      return Internal("leaf sum {} of {} is {}, which rounds otherwise than {}", i, size, values[i],
                      expected);
    }
  }
  return absl::OkStatus();
}

absl::Status BoardCountsCollectives(Communicator& world) {
  ProgressBoard board(world.hosts());
  world.PublishTo(&board);
  std::vector<int64_t> value = {1};
  absl::Status status = world.AllReduceSum(value, kPhase);
  if (status.ok()) status = world.AllReduceSum(value, {8, 4, core::StepPhase::Kind::kFeedForward});
  world.PublishTo(nullptr);
  TANDEM_RETURN_IF_ERROR(status);
  const RankProgress progress = board.Read(world.rank());
  if (world.size() == 1 && progress.collectives == 0)
    return absl::OkStatus();  // nobody to wait for
  if (progress.collectives != 2 || progress.waiting || progress.phase.step != 8 ||
      progress.phase.layer != 4 || progress.phase.kind != core::StepPhase::Kind::kFeedForward) {
    return Internal("the board shows {} collectives, {}", progress.collectives,
                    PhaseText(progress.phase));
  }
  return absl::OkStatus();
}

}  // namespace

std::vector<CommunicatorCase> CommunicatorSuite() {
  std::vector<CommunicatorCase> cases;
  const auto add_sizes = [&](std::string_view name, std::initializer_list<size_t> sizes,
                             absl::Status (*run)(Communicator&, size_t)) {
    for (const size_t size : sizes) {
      cases.push_back({fmt::format("{}_{}", name, size),
                       [run, size](Communicator& world) { return run(world, size); }});
    }
  };
  cases.push_back({"Barrier", [](Communicator& world) { return world.Barrier(); }});
  cases.push_back({"Places", PlacesAreConsistent});
  add_sizes("Sum", {0, 1, 2, 3, 64, 255, 256, 576, 577, 4096, 16383, 16384, 16385, 100000},
            SumsAreExact);
  add_sizes("PartialSums", {0, 1, 2, 64, 257, 2049, 16384, 100000}, LeafSumsRoundAsExactOnes);
  cases.push_back({"SumsOfRandomSizes", SumsOfRandomSizes});
  cases.push_back({"LargeSums", LargeSumsAreExact});
  add_sizes("Gather", {0, 1, 3, 8, 1000, 65537, 131072, 131073}, GatherIsInRankOrder);
  add_sizes("Broadcast", {0, 1, 1000, 100001}, BroadcastIsFromRankZero);
  cases.push_back({"Strings", StringsTakeRankZerosSize});
  cases.push_back({"Many", ManyOperationsStayInStep});
  cases.push_back({"Board", BoardCountsCollectives});
  return cases;
}

}  // namespace tandem::parallel
