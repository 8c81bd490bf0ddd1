#include "parallel/communicators/host_exchange.h"

#include <algorithm>
#include <string_view>

#include "parallel/communicators/sum_packing.h"

namespace tandem::parallel {
namespace {

constexpr int kParts = 1;  // tags
constexpr int kTotals = 2;

/// In bytes a sum, packed and as a float; estimates for the choice of a way.
constexpr int64_t kPackedSum = 5;
constexpr int64_t kRoundedSum = 4;

absl::Status Checked(std::string_view name, int code) {
  if (code == MPI_SUCCESS) return absl::OkStatus();
  std::array<char, MPI_MAX_ERROR_STRING> text = {};
  int length = 0;
  MPI_Error_string(code, text.data(), &length);
  return Unavailable("{} failed: {}", name, text.data());
}

size_t SlotOf(int64_t segment, size_t slots) { return static_cast<size_t>(segment) % slots; }

}  // namespace

HostExchange::HostExchange(MPI_Comm comm, const ExchangeOptions& options)
    : comm_(comm), options_(options) {
  MPI_Comm_rank(comm, &rank_);
  MPI_Comm_size(comm, &hosts_);
  peers_.resize(static_cast<size_t>(hosts_ - 1));
  for (int distance = 1; distance < hosts_; ++distance) {
    Peer& peer = peers_[static_cast<size_t>(distance - 1)];
    peer.rank = (rank_ + distance) % hosts_;
    peer.shared_out.fill(MPI_REQUEST_NULL);
  }
}

size_t HostExchange::RoomOfASegment() const {
  return PackedRoom(static_cast<size_t>(options_.segment));
}

std::byte* HostExchange::RoomOf(Buffer& buffer) const {
  if (buffer == nullptr) buffer = std::make_unique_for_overwrite<std::byte[]>(RoomOfASegment());
  return buffer.get();
}

bool HostExchange::SendsWhole(size_t count) const {
  const auto sums = static_cast<int64_t>(count);
  const int64_t whole = (hosts_ - 1) * sums * kPackedSum;
  const int64_t by_slices = (hosts_ - 1) * sums * (kPackedSum + kRoundedSum) / hosts_;
  return whole - by_slices <= options_.bytes_of_a_way;
}

std::span<int64_t> HostExchange::SegmentOf(const Call& call, int rank, int64_t s) const {
  const auto count = static_cast<int64_t>(call.values.size());
  const int64_t begin = call.whole ? 0 : count * rank / hosts_;
  const int64_t end = call.whole ? count : count * (rank + 1) / hosts_;
  const int64_t first = std::min(end, begin + s * options_.segment);
  const int64_t last = std::min(end, first + options_.segment);
  return call.values.subspan(static_cast<size_t>(first), static_cast<size_t>(last - first));
}

absl::Status HostExchange::AllReduceSum(std::span<int64_t> values, SumPrecision precision) {
  if (hosts_ == 1) return absl::OkStatus();
  const auto count = static_cast<int64_t>(values.size());
  if (hosts_ >= options_.many_hosts && count < hosts_ * options_.few_sums) {
    return Checked("MPI_Allreduce",
                   MPI_Allreduce(MPI_IN_PLACE, values.data(), static_cast<int>(count), MPI_INT64_T,
                                 MPI_SUM, comm_));
  }
  Call call{
      .values = values, .precision = precision, .whole = SendsWhole(values.size()), .segments = 0};
  const int64_t longest = call.whole ? count : (count + hosts_ - 1) / hosts_;
  call.segments = (longest + options_.segment - 1) / options_.segment;

  for (int64_t turn = -kPosted; turn < call.segments + kCollected; ++turn) {
    const auto at = [&](int64_t s, auto stage) {
      return s >= 0 && s < call.segments ? (this->*stage)(call, s) : absl::OkStatus();
    };
    TANDEM_RETURN_IF_ERROR(at(turn + kPosted, &HostExchange::Post));
    TANDEM_RETURN_IF_ERROR(at(turn, &HostExchange::SendParts));
    TANDEM_RETURN_IF_ERROR(at(turn - kAdded, &HostExchange::AddParts));
    TANDEM_RETURN_IF_ERROR(at(turn - kCollected, &HostExchange::CollectTotals));
  }
  return FinishSends();
}

absl::Status HostExchange::Post(const Call& call, int64_t s) {
  const size_t slot = SlotOf(s, kSlots);
  for (Peer& peer : peers_) {
    if (!SegmentOf(call, rank_, s).empty()) {
      TANDEM_RETURN_IF_ERROR(Receive(peer, kParts, peer.parts_in[slot]));
    }
    if (!call.whole && !SegmentOf(call, peer.rank, s).empty()) {
      TANDEM_RETURN_IF_ERROR(Receive(peer, kTotals, peer.totals_in[slot]));
    }
  }
  return absl::OkStatus();
}

absl::Status HostExchange::SendParts(const Call& call, int64_t s) {
  const size_t slot = SlotOf(s, kSlots);
  if (call.whole) {
    for (Peer& peer : peers_) TANDEM_RETURN_IF_ERROR(Wait(peer.shared_out[slot]));
    const size_t bytes = PackSums(SegmentOf(call, rank_, s), RoomOf(shared_out_[slot]));
    return SendShared(slot, bytes, kParts);
  }
  for (Peer& peer : peers_) {
    const std::span<int64_t> segment = SegmentOf(call, peer.rank, s);
    if (segment.empty()) continue;
    Slot& out = peer.parts_out[slot];
    TANDEM_RETURN_IF_ERROR(Wait(out.request));
    const size_t bytes = PackSums(segment, RoomOf(out.bytes));
    TANDEM_RETURN_IF_ERROR(
        Checked("MPI_Isend", MPI_Isend(out.bytes.get(), static_cast<int>(bytes), MPI_BYTE,
                                       peer.rank, kParts, comm_, &out.request)));
  }
  return absl::OkStatus();
}

absl::Status HostExchange::AddParts(const Call& call, int64_t s) {
  const size_t slot = SlotOf(s, kSlots);
  const std::span<int64_t> segment = SegmentOf(call, rank_, s);
  if (segment.empty()) return absl::OkStatus();
  for (Peer& peer : peers_) {
    const auto part = Received(peer, peer.parts_in[slot]);
    TANDEM_RETURN_IF_ERROR(part.status());
    if (absl::Status added = AddPacked(*part, segment); !added.ok()) {
      return Internal("what rank {} of the hosts sent: {}", peer.rank, Message(added));
    }
  }
  if (call.whole) return absl::OkStatus();
  for (Peer& peer : peers_) TANDEM_RETURN_IF_ERROR(Wait(peer.shared_out[slot]));
  std::byte* out = RoomOf(shared_out_[slot]);
  if (call.precision == SumPrecision::kExact) {
    return SendShared(slot, PackSums(segment, out), kTotals);
  }
  RoundTotals(segment, reinterpret_cast<float*>(out));
  return SendShared(slot, segment.size() * sizeof(float), kTotals);
}

absl::Status HostExchange::CollectTotals(const Call& call, int64_t s) {
  if (call.whole) return absl::OkStatus();
  for (Peer& peer : peers_) {
    const std::span<int64_t> segment = SegmentOf(call, peer.rank, s);
    if (segment.empty()) continue;
    const auto totals = Received(peer, peer.totals_in[SlotOf(s, kSlots)]);
    TANDEM_RETURN_IF_ERROR(totals.status());
    if (call.precision == SumPrecision::kExact) {
      std::fill(segment.begin(), segment.end(), 0);
      if (absl::Status added = AddPacked(*totals, segment); !added.ok()) {
        return Internal("what rank {} of the hosts sent: {}", peer.rank, Message(added));
      }
      continue;
    }
    if (totals->size() != segment.size() * sizeof(float)) {
      return Internal("rank {} of the hosts sent {} bytes of totals, expected {} times 4",
                      peer.rank, totals->size(), segment.size());
    }
    ReadTotals(totals->data(), segment);
  }
  return absl::OkStatus();
}

absl::Status HostExchange::FinishSends() {
  for (Peer& peer : peers_) {
    for (Slot& slot : peer.parts_out) TANDEM_RETURN_IF_ERROR(Wait(slot.request));
    for (MPI_Request& request : peer.shared_out) TANDEM_RETURN_IF_ERROR(Wait(request));
  }
  return absl::OkStatus();
}

absl::Status HostExchange::Receive(Peer& peer, int tag, Slot& slot) {
  return Checked("MPI_Irecv", MPI_Irecv(RoomOf(slot.bytes), static_cast<int>(RoomOfASegment()),
                                        MPI_BYTE, peer.rank, tag, comm_, &slot.request));
}

absl::Status HostExchange::SendShared(size_t slot, size_t bytes, int tag) {
  for (Peer& peer : peers_) {
    TANDEM_RETURN_IF_ERROR(
        Checked("MPI_Isend", MPI_Isend(shared_out_[slot].get(), static_cast<int>(bytes), MPI_BYTE,
                                       peer.rank, tag, comm_, &peer.shared_out[slot])));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::span<const std::byte>> HostExchange::Received(const Peer& peer, Slot& slot) {
  MPI_Status status = {};
  TANDEM_RETURN_IF_ERROR(Checked("MPI_Wait", MPI_Wait(&slot.request, &status)));
  int bytes = 0;
  MPI_Get_count(&status, MPI_BYTE, &bytes);
  if (bytes < 0 || static_cast<size_t>(bytes) > RoomOfASegment()) {
    return Internal("rank {} of the hosts sent {} bytes, expected at most {}", peer.rank, bytes,
                    RoomOfASegment());
  }
  return std::span<const std::byte>(slot.bytes.get(), static_cast<size_t>(bytes));
}

absl::Status HostExchange::Wait(MPI_Request& request) {
  if (request == MPI_REQUEST_NULL) return absl::OkStatus();
  return Checked("MPI_Wait", MPI_Wait(&request, MPI_STATUS_IGNORE));
}

}  // namespace tandem::parallel
