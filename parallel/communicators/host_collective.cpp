#include "parallel/communicators/host_collective.h"

#include <immintrin.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <vector>

namespace tandem::parallel {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int64_t kPage = 4096;

int64_t PlacesBytes(int ranks) {
  return (ranks * HostCollective::kPlaceBytes + kPage - 1) / kPage * kPage;
}

// Not std::atomic::wait: the library's works within one process only.
static_assert(sizeof(std::atomic<uint32_t>) == sizeof(uint32_t));
static_assert(std::atomic<uint32_t>::is_always_lock_free);

/// Sleeps while `word` is `value`; may return early.
void SleepWhile(std::atomic<uint32_t>& word, uint32_t value) {
  syscall(SYS_futex, &word, FUTEX_WAIT, value, nullptr, nullptr, 0);
}

void WakeAll(std::atomic<uint32_t>& word) {
  syscall(SYS_futex, &word, FUTEX_WAKE, INT32_MAX, nullptr, nullptr, 0);
}

/// The part of `count` elements that is `rank`'s; whole cache lines, so that two ranks never write
/// the same one.
struct Slice {
  size_t begin = 0;
  size_t count = 0;
};
Slice SliceOf(size_t count, int rank, int ranks) {
  constexpr size_t kLine = 64 / sizeof(int64_t);
  const size_t lines = (count + kLine - 1) / kLine;
  const auto edge = [&](int at) {
    return std::min(count, lines * static_cast<size_t>(at) / static_cast<size_t>(ranks) * kLine);
  };
  return {edge(rank), edge(rank + 1) - edge(rank)};
}

void Copy(const int64_t* from, size_t count, int64_t* to) {
  if (count != 0) std::memcpy(to, from, count * sizeof(int64_t));
}

/// Copies past the caches. Such stores are not ordered with others until a fence.
void Stream(const int64_t* from, size_t count, int64_t* to) {
  constexpr size_t kStep = sizeof(__m256i) / sizeof(int64_t);
  size_t i = 0;
  for (; i < count && reinterpret_cast<uintptr_t>(to + i) % sizeof(__m256i) != 0; ++i) {
    to[i] = from[i];
  }
  for (; i + kStep <= count; i += kStep) {
    _mm256_stream_si256(reinterpret_cast<__m256i*>(to + i),
                        _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + i)));
  }
  Copy(from + i, count - i, to + i);
  _mm_sfence();
}

void Add(const int64_t* __restrict from, size_t count, int64_t* __restrict to) {
  for (size_t i = 0; i < count; ++i) to[i] += from[i];
}

int64_t* Numbers(std::byte* slot) { return reinterpret_cast<int64_t*>(slot); }

}  // namespace

int64_t HostCollective::BytesNeeded(int ranks, const HostCollectiveOptions& options) {
  return PlacesBytes(ranks) + 2 * options.slot_bytes * ranks;
}

HostCollective::Part HostCollective::SlotsOf(int rank, int ranks,
                                             const HostCollectiveOptions& options) {
  return {PlacesBytes(ranks) + 2 * options.slot_bytes * rank, 2 * options.slot_bytes};
}

HostCollective::HostCollective(std::byte* memory, int rank, int ranks,
                               const HostCollectiveOptions& options)
    : places_(reinterpret_cast<Place*>(memory)),
      slots_(memory + PlacesBytes(ranks)),
      rank_(rank),
      ranks_(ranks),
      options_(options),
      round_(places_[rank].arrivals.load(std::memory_order_relaxed)) {
  static_assert(sizeof(Place) == kPlaceBytes);
}

std::byte* HostCollective::Slot(int rank) const {
  return slots_ + (int64_t{2} * rank + round_ % 2) * options_.slot_bytes;
}

void HostCollective::Put(std::span<const int64_t> piece, size_t begin, size_t count) const {
  int64_t* to = Numbers(Slot(rank_)) + begin;
  const bool past_caches =
      stream_ && static_cast<int64_t>(count * sizeof(int64_t)) >= options_.stream_bytes;
  (past_caches ? Stream : Copy)(piece.data() + begin, count, to);
}

void HostCollective::Arrive(const Purpose& purpose) {
  Place& mine = places_[rank_];
  mine.purposes[round_ % 2] = purpose;
  // Sequentially consistent, as the sleeper's two steps are: either it sees this arrival before it
  // sleeps, or we see it here and wake it.
  mine.arrivals.store(round_, std::memory_order_seq_cst);
  if (mine.sleepers.load(std::memory_order_seq_cst) != 0) WakeAll(mine.arrivals);
}

void HostCollective::WaitForArrival(Place& other) const {
  const auto here = [&](uint32_t arrivals) { return static_cast<int32_t>(arrivals - round_) >= 0; };
  const auto arrived = [&] { return here(other.arrivals.load(std::memory_order_acquire)); };
  if (arrived()) return;
  if (patience_.spin.count() > 0) {
    const Clock::time_point end = Clock::now() + patience_.spin;
    do {
      for (int i = 0; i < 16; ++i) {
        _mm_pause();
        if (arrived()) return;
      }
    } while (Clock::now() < end);
  }
  other.sleepers.fetch_add(1, std::memory_order_seq_cst);
  for (;;) {
    const uint32_t arrivals = other.arrivals.load(std::memory_order_seq_cst);
    if (here(arrivals)) break;
    SleepWhile(other.arrivals, arrivals);
  }
  other.sleepers.fetch_sub(1, std::memory_order_relaxed);
}

absl::Status HostCollective::WaitFor(int rank, const Purpose& purpose) const {
  Place& other = places_[rank];
  WaitForArrival(other);
  const Purpose& others = other.purposes[round_ % 2];
  if (others == purpose) return absl::OkStatus();
  const auto text = [](const Purpose& p) {
    return fmt::format("a {} of {} bytes", p.gather != 0 ? "gather" : "sum", p.bytes);
  };
  return Internal(
      "rank {} of this host asks for {}, but rank {} of this host asks for {}: ranks must do the "
      "same steps",
      rank_, text(purpose), rank, text(others));
}

absl::Status HostCollective::ChooseStores() {
  constexpr int kTries = 12;
  if (ranks_ == 1 || patience_.spin.count() == 0) return absl::OkStatus();
  std::vector<int64_t> values(std::min(size_t{8192}, MostOfAPiece()), 0);
  std::chrono::nanoseconds best[2] = {std::chrono::nanoseconds::max(),
                                      std::chrono::nanoseconds::max()};
  for (int i = 0; i < 2 * kTries; ++i) {
    stream_ = i % 2 == 1;
    const Clock::time_point begin = Clock::now();
    TANDEM_RETURN_IF_ERROR(AllReduceSum(values));
    best[i % 2] = std::min<std::chrono::nanoseconds>(best[i % 2], Clock::now() - begin);
  }
  int64_t gain = (best[0] - best[1]).count();
  TANDEM_RETURN_IF_ERROR(AllReduceSum(std::span(&gain, 1)));
  stream_ = gain > 0;
  return absl::OkStatus();
}

absl::Status HostCollective::AllReduceSum(std::span<int64_t> values) {
  const Purpose purpose{.bytes = values.size_bytes(), .gather = 0};
  const size_t most = MostOfAPiece();
  size_t begin = 0;
  do {
    const std::span<int64_t> piece = values.subspan(begin, std::min(most, values.size() - begin));
    const auto to_read = static_cast<int64_t>(piece.size_bytes()) * (ranks_ - 1);
    const bool at_once = ranks_ == 2 || to_read <= options_.one_shot_bytes;
    TANDEM_RETURN_IF_ERROR(at_once ? ReduceAtOnce(piece, purpose) : ReduceBySlices(piece, purpose));
    begin += piece.size();
  } while (begin < values.size());
  return absl::OkStatus();
}

absl::Status HostCollective::ReduceAtOnce(std::span<int64_t> piece, const Purpose& purpose) {
  ++round_;
  Put(piece, 0, piece.size());
  Arrive(purpose);
  for (int distance = 1; distance < ranks_; ++distance) {
    const int other = Neighbour(distance);
    TANDEM_RETURN_IF_ERROR(WaitFor(other, purpose));
    Add(Numbers(Slot(other)), piece.size(), piece.data());
  }
  return absl::OkStatus();
}

absl::Status HostCollective::ReduceBySlices(std::span<int64_t> piece, const Purpose& purpose) {
  const Slice mine = SliceOf(piece.size(), rank_, ranks_);
  ++round_;
  const size_t end = mine.begin + mine.count;
  Put(piece, 0, mine.begin);
  Put(piece, end, piece.size() - end);
  Arrive(purpose);
  for (int distance = 1; distance < ranks_; ++distance) {
    const int other = Neighbour(distance);
    TANDEM_RETURN_IF_ERROR(WaitFor(other, purpose));
    Add(Numbers(Slot(other)) + mine.begin, mine.count, piece.data() + mine.begin);
  }

  ++round_;
  Put(piece, mine.begin, mine.count);
  Arrive(purpose);
  for (int distance = 1; distance < ranks_; ++distance) {
    const int other = Neighbour(distance);
    const Slice slice = SliceOf(piece.size(), other, ranks_);
    TANDEM_RETURN_IF_ERROR(WaitFor(other, purpose));
    Copy(Numbers(Slot(other)) + slice.begin, slice.count, piece.data() + slice.begin);
  }
  return absl::OkStatus();
}

absl::Status HostCollective::AllReduceSum(
    std::span<int64_t> values, int owners,
    absl::FunctionRef<absl::Status(std::span<int64_t>)> between_hosts) {
  const Purpose purpose{.bytes = values.size_bytes(), .gather = 0};
  const size_t most = MostOfAPiece();
  absl::Status failure;
  size_t begin = 0;
  do {
    const std::span<int64_t> piece = values.subspan(begin, std::min(most, values.size() - begin));
    TANDEM_RETURN_IF_ERROR(ReduceOverHosts(piece, owners, between_hosts, failure, purpose));
    begin += piece.size();
  } while (begin < values.size());
  return failure;
}

absl::Status HostCollective::ReduceOverHosts(
    std::span<int64_t> piece, int owners,
    absl::FunctionRef<absl::Status(std::span<int64_t>)> between_hosts, absl::Status& failure,
    const Purpose& purpose) {
  const bool owner = rank_ < owners;
  const Slice mine = owner ? SliceOf(piece.size(), rank_, owners) : Slice{};
  ++round_;
  Put(piece, 0, piece.size());
  Arrive(purpose);
  if (owner) {
    for (int distance = 1; distance < ranks_; ++distance) {
      const int other = Neighbour(distance);
      TANDEM_RETURN_IF_ERROR(WaitFor(other, purpose));
      Add(Numbers(Slot(other)) + mine.begin, mine.count, piece.data() + mine.begin);
    }
    const absl::Status status = between_hosts(piece.subspan(mine.begin, mine.count));
    if (failure.ok()) failure = status;
  }

  ++round_;
  Put(piece, mine.begin, mine.count);
  Arrive(purpose);
  for (int other = 0; other < owners; ++other) {
    if (other == rank_) continue;
    const Slice slice = SliceOf(piece.size(), other, owners);
    TANDEM_RETURN_IF_ERROR(WaitFor(other, purpose));
    Copy(Numbers(Slot(other)) + slice.begin, slice.count, piece.data() + slice.begin);
  }
  return absl::OkStatus();
}

absl::Status HostCollective::AllGather(std::span<const std::byte> mine, std::span<std::byte> all) {
  const Purpose purpose{.bytes = mine.size(), .gather = 1};
  const auto most = static_cast<size_t>(options_.slot_bytes);
  const auto put = [&](const std::byte* from, size_t count, int rank, size_t begin) {
    if (count != 0) std::memcpy(&all[static_cast<size_t>(rank) * mine.size() + begin], from, count);
  };
  size_t begin = 0;
  do {
    const size_t count = std::min(most, mine.size() - begin);
    ++round_;
    if (count != 0) std::memcpy(Slot(rank_), mine.data() + begin, count);
    Arrive(purpose);
    put(mine.data() + begin, count, rank_, begin);
    for (int distance = 1; distance < ranks_; ++distance) {
      const int other = Neighbour(distance);
      TANDEM_RETURN_IF_ERROR(WaitFor(other, purpose));
      put(Slot(other), count, other, begin);
    }
    begin += count;
  } while (begin < mine.size());
  return absl::OkStatus();
}

}  // namespace tandem::parallel
