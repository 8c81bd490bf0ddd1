#pragma once

#include <mpi.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "core/base/status.h"
#include "parallel/communicators/exchange_options.h"

namespace tandem::parallel {

/// What becomes of sums: kExact, or kRounded if they are only rounded to float32 in units of 2^-32.
enum class SumPrecision { kExact, kRounded };

/// All-reduce of int64 between hosts by MPI messages.
///
/// Every host owns a slice of the sums. It receives the others' parts of its slice (packed,
/// sum_packing.h), adds them up and sends everyone the totals; with kRounded they travel as
/// float32. If there are few sums, every host sends all of them to every other instead, and each
/// adds them up; between many hosts MPI_Allreduce does that. Slices go in segments through a
/// pipeline: a host packs and adds one segment while others travel. Memory is bounded by kSlots
/// segments a host and kind.
///
/// All hosts call the same operations in the same order and sizes, from one thread at a time (that
/// of MPI). What arrives is checked against the sizes that follow from the call. After an error the
/// exchange must not be used, nor destroyed while MPI goes on.
class HostExchange {
 public:
  /// comm: one rank of every host, with MPI_ERRORS_RETURN; it must outlive this object.
  HostExchange(MPI_Comm comm, const ExchangeOptions& options);

  /// Adds `values` over the hosts, in place. kRounded: each becomes an integer that rounds to the
  /// same float32 as the sum, not the same integer on all hosts.
  /// Errors: kUnavailable from MPI, kInternal naming the peer (its rank in `comm`) that sent what
  /// was not expected.
  absl::Status AllReduceSum(std::span<int64_t> values, SumPrecision precision);

 private:
  // A pipeline's stages for segment s happen at turn s - kPosted, s, s + kAdded and s + kCollected.
  static constexpr int64_t kPosted = 8;
  static constexpr int64_t kAdded = 4;
  static constexpr int64_t kCollected = 8;
  static constexpr size_t kSlots = 20;  // more than kPosted + kCollected
  using Buffer = std::unique_ptr<std::byte[]>;

  struct Slot {
    Buffer bytes;  // RoomOfASegment(), once it was needed
    MPI_Request request = MPI_REQUEST_NULL;
  };
  struct Peer {
    int rank = 0;
    std::array<Slot, kSlots> parts_in;
    std::array<Slot, kSlots> parts_out;
    std::array<Slot, kSlots> totals_in;
    std::array<MPI_Request, kSlots> shared_out;  // of shared_out_
  };
  /// One call: whose sums are whose.
  struct Call {
    std::span<int64_t> values;
    SumPrecision precision;
    bool whole;        // everybody adds everything up
    int64_t segments;  // of the longest slice
  };

  bool SendsWhole(size_t count) const;
  /// Segment `s` of the slice that `rank` adds up; may be empty.
  std::span<int64_t> SegmentOf(const Call& call, int rank, int64_t s) const;
  absl::Status Post(const Call& call, int64_t s);
  absl::Status SendParts(const Call& call, int64_t s);
  absl::Status AddParts(const Call& call, int64_t s);
  absl::Status CollectTotals(const Call& call, int64_t s);
  absl::Status FinishSends();

  absl::Status Receive(Peer& peer, int tag, Slot& slot);
  /// Sends shared_out_ of that slot to everybody.
  absl::Status SendShared(size_t slot, size_t bytes, int tag);
  /// What came from the peer, or the error that it was.
  absl::StatusOr<std::span<const std::byte>> Received(const Peer& peer, Slot& slot);
  absl::Status Wait(MPI_Request& request);
  size_t RoomOfASegment() const;
  std::byte* RoomOf(Buffer& buffer) const;

  const MPI_Comm comm_;
  const ExchangeOptions options_;
  int rank_ = 0;
  int hosts_ = 1;
  std::vector<Peer> peers_;  // [hosts - 1] in a circle from the next rank on
  std::array<Buffer, kSlots> shared_out_;
};

}  // namespace tandem::parallel
