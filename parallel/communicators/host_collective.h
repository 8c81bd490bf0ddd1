#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <span>

#include "absl/functional/function_ref.h"
#include "core/base/status.h"

namespace tandem::parallel {

/// How ranks of one host meet. The same on all of them, but for the waiting.
struct HostCollectiveOptions {
  /// Bytes of a rank's slot, a multiple of 64. Longer messages go in pieces of this size, which
  /// should fit a core's cache together with the other ranks' pieces.
  int64_t slot_bytes = int64_t{128} << 10;
  /// If a rank would read at most this many bytes, every rank adds up the whole all-reduce. Above,
  /// each rank adds up a slice: that takes a second round but less reading.
  int64_t one_shot_bytes = int64_t{32} << 10;
  /// Parts of at least so many bytes may be written to a slot past the caches (ChooseStores).
  int64_t stream_bytes = int64_t{2} << 10;
};

/// How long a waiting rank polls before it sleeps; 0 where ranks share processors.
///
/// The time is short, and there is no sched_yield: the system lets a thread that polled or yielded
/// wait behind a busy neighbour, but runs a thread that slept as soon as it is woken. With one
/// foreign busy loop on two processors, decoding with yields was 5 to 10 times slower; on quiet
/// processors it was not faster.
struct CollectivePatience {
  std::chrono::microseconds spin{20};
};

/// Where the ranks of one host meet, in memory that they share: reductions and gathers without
/// system calls.
///
/// The memory holds for each rank a place (how often it has arrived, and at what) and two slots.
/// In a round each rank writes its part to its slot, counts its arrival (release), waits for the
/// arrivals of the ranks it needs (acquire), and reads their slots. Rounds use the two slots in
/// turn. A rank arrives at a round only after it has read the slots of the one before, so a slot
/// that is written two rounds later has been read by all.
///
/// The rules of core::Collective hold: same operations in the same order and sizes, from one thread
/// at a time. If a rank asks for another size, the error names it; there are no other errors. For a
/// rank that never arrives the others wait until the process ends; the watchdog reports it.
class HostCollective {
 public:
  /// Bytes of a rank's place, at the beginning of which stands its count of arrivals, 4 bytes. The
  /// count may begin anywhere, if alike for all ranks.
  static constexpr int64_t kPlaceBytes = 128;

  static int64_t BytesNeeded(int ranks, const HostCollectiveOptions& options);
  /// The part of the memory that `rank` writes most; it should be reserved by that rank.
  struct Part {
    int64_t begin = 0;
    int64_t count = 0;
  };
  static Part SlotsOf(int rank, int ranks, const HostCollectiveOptions& options);

  /// memory: BytesNeeded bytes, zero before the first rank came, aligned to 64; it must outlive
  /// this object. rank: among the ranks that meet here.
  HostCollective(std::byte* memory, int rank, int ranks, const HostCollectiveOptions& options);

  /// Measures whether slots are better written past the caches, and then writes them so. Called by
  /// all ranks together. Takes about 2 ms; does nothing where ranks do not poll.
  ///
  /// A slot's lines are in the cache of the rank that read them last. If that cache is far (another
  /// core complex or socket), fetching them back line by line costs several times as much as
  /// writing to memory. If the ranks share a cache, staying in it is faster.
  absl::Status ChooseStores();

  void set_patience(const CollectivePatience& patience) { patience_ = patience; }
  int rank() const { return rank_; }
  int ranks() const { return ranks_; }

  /// Adds `values` over the ranks, in place.
  absl::Status AllReduceSum(std::span<int64_t> values);

  /// Everyone's `mine` in rank order into `all`; all.size() == ranks() * mine.size().
  absl::Status AllGather(std::span<const std::byte> mine, std::span<std::byte> all);

  /// Adds `values` over the ranks of this host and of other hosts, in place. Of each piece, the
  /// first `owners` ranks (1 to ranks()) sum a slice each over this host. `between_hosts` adds the
  /// other hosts' sums to that slice in place, and all ranks read the result. If `between_hosts`
  /// fails, only this rank gets its error, and it still meets the others.
  absl::Status AllReduceSum(std::span<int64_t> values, int owners,
                            absl::FunctionRef<absl::Status(std::span<int64_t>)> between_hosts);

 private:
  /// What all ranks must agree on when they meet.
  struct Purpose {
    uint64_t bytes;   // of the whole message, all pieces
    uint64_t gather;  // 1: a gather, 0: a sum
    bool operator==(const Purpose&) const = default;
  };

  struct alignas(kPlaceBytes) Place {
    std::atomic<uint32_t> arrivals;  // rounds that this rank has come to, modulo 2^32
    std::atomic<uint32_t> sleepers;  // ranks that sleep until the next arrival
    Purpose purposes[2];             // what it came for; alternate as the slots do
  };

  std::byte* Slot(int rank) const;
  size_t MostOfAPiece() const { return static_cast<size_t>(options_.slot_bytes) / sizeof(int64_t); }
  /// The rank that is `distance` after this one, in a circle: ranks begin with different
  /// neighbours.
  int Neighbour(int distance) const { return (rank_ + distance) % ranks_; }
  /// Copies to our slot of this round, at the same place as in the piece.
  void Put(std::span<const int64_t> piece, size_t begin, size_t count) const;
  void Arrive(const Purpose& purpose);
  absl::Status WaitFor(int rank, const Purpose& purpose) const;
  void WaitForArrival(Place& other) const;
  absl::Status ReduceAtOnce(std::span<int64_t> piece, const Purpose& purpose);
  absl::Status ReduceBySlices(std::span<int64_t> piece, const Purpose& purpose);
  absl::Status ReduceOverHosts(std::span<int64_t> piece, int owners,
                               absl::FunctionRef<absl::Status(std::span<int64_t>)> between_hosts,
                               absl::Status& failure, const Purpose& purpose);

  Place* const places_;     // [ranks]
  std::byte* const slots_;  // [ranks, 2, slot_bytes]
  const int rank_;
  const int ranks_;
  const HostCollectiveOptions options_;
  CollectivePatience patience_;
  bool stream_ = true;
  uint32_t round_;  // that we are at or have been at last, modulo 2^32
};

}  // namespace tandem::parallel
