#include "core/cuda/peer/cuda_peer_link.h"

#include <algorithm>
#include <atomic>
#include <string>
#include <utility>
#include <vector>

#include "core/cuda/cuda_memory.h"
#include "core/cuda/peer/cuda_peer_memory.h"
#include "core/cuda/peer/peer_kernels.h"
#include "core/model/device_status.h"
#include "core/model/operations.h"

namespace tandem::core {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::string_view kName = "peer memory";
/// What a rank stored before it went is here after this time.
constexpr std::chrono::milliseconds kLastWordsTime{100};
/// How long the end of a link waits for its kernels, which end as soon as they are told to.
constexpr std::chrono::seconds kEndPatience{2};

std::atomic_ref<uint32_t> Word(std::byte* pinned, size_t i) {
  return std::atomic_ref<uint32_t>(reinterpret_cast<uint32_t*>(pinned)[i]);
}

class PeerLink final : public DeviceLink {
 public:
  /// Throws DeviceFailure.
  explicit PeerLink(CudaMemory& memory)
      : memory_(memory), peers_(memory), words_(AllocatePinned(kWords * sizeof(uint32_t))) {
    for (size_t i = 0; i < kWords; ++i) Word(words_.get(), i) = 0;
  }
  /// Others may still read what this rank gave last; PeerMemory keeps it for them.
  ~PeerLink() override {
    Word(words_.get(), kGivenUp) = 1;
    static_cast<void>(memory_.WaitForKernels(kEndPatience));
  }
  PeerLink(const PeerLink&) = delete;
  PeerLink& operator=(const PeerLink&) = delete;

  absl::Status Join(const DeviceLinkPlace& place, DeviceLinkExchange exchange) {
    TANDEM_ASSIGN_OR_RETURN(const std::vector<std::vector<std::byte>> offers,
                            exchange(peers_.offer()));
    TANDEM_RETURN_IF_ERROR(peers_.Open(offers, place.rank));
    place_.rank = place.rank;
    place_.ranks = place.ranks;
    for (size_t rank = 0; rank < offers.size(); ++rank) place_.memory[rank] = peers_.of_rank(rank);
    place_.given_up = reinterpret_cast<const uint32_t*>(words_.get()) + kGivenUp;
    place_.waits = reinterpret_cast<uint32_t*>(words_.get()) + kWaits;
    gone_.resize(offers.size());
    return absl::OkStatus();
  }

  std::string_view name() const override { return kName; }

  absl::Status AllReduceSum(std::span<int64_t> values) override { return Reduce(values); }
  absl::Status AllReduceSum(std::span<float> values) override { return Reduce(values); }

  absl::Status AllGather(std::span<const std::byte> mine, std::span<std::byte> all) override {
    if (aborted_) return GivenUp();
    return WithDeviceFailures([&] {
      for (size_t at = 0; at < mine.size(); at += kPeerSlotBytes) {
        const size_t bytes = std::min<size_t>(mine.size() - at, kPeerSlotBytes);
        LaunchPeerGather(memory_.stream(), place_, mine.data() + at, static_cast<int64_t>(bytes),
                         all.data() + at, static_cast<int64_t>(mine.size()));
      }
    });
  }

  absl::Status Health() override {
    if (aborted_) return GivenUp();
    for (size_t rank = 0; rank < gone_.size(); ++rank) {
      if (std::cmp_equal(rank, place_.rank) || !IsMissed(rank)) continue;
      return Unavailable("{} on {}: rank {} has ended", kName, GpuText(), rank);
    }
    return absl::OkStatus();
  }

  void Abort() override {
    aborted_ = true;
    Word(words_.get(), kGivenUp) = 1;
  }

  absl::Status Finish(std::chrono::milliseconds patience) override {
    absl::Status status = memory_.WaitForKernels(patience, [&] { return Health(); });
    if (!status.ok()) Abort();
    return status;
  }

 private:
  // Of words_.
  static constexpr size_t kGivenUp = 0;
  static constexpr size_t kWaits = 16;  // in a line of its own
  static constexpr size_t kWords = kWaits + kMostPeers;

  /// What is known of a rank that is gone.
  struct Gone {
    Clock::time_point since = {};
    bool seen = false;
    bool waits_known = false;
    uint32_t waits = 0;  // some time later: what threads had said that wait for it
  };

  /// Whether the GPU waits for a rank that is gone. One that had stored all that is waited for may
  /// go; its last words need a moment.
  bool IsMissed(size_t rank) {
    Gone& gone = gone_[rank];
    if (!gone.seen) {
      if (!peers_.gone(rank)) return false;
      gone.seen = true;
      gone.since = Clock::now();
    }
    if (Clock::now() - gone.since < kLastWordsTime) return false;
    const uint32_t waits = Word(words_.get(), kWaits + rank);
    if (!gone.waits_known) {
      gone.waits_known = true;
      gone.waits = waits;
    }
    return waits != gone.waits;
  }

  template <typename T>
  absl::Status Reduce(std::span<T> values) {
    if (aborted_) return GivenUp();
    return WithDeviceFailures([&] {
      constexpr size_t kMost = kPeerSlotBytes / sizeof(T);
      for (size_t at = 0; at < values.size(); at += kMost) {
        const std::span<T> piece = values.subspan(at, std::min(values.size() - at, kMost));
        LaunchPeerSum(memory_.stream(), place_, piece.data(), static_cast<int64_t>(piece.size()));
      }
    });
  }

  absl::Status GivenUp() const { return Unavailable("{} on {} was given up", kName, GpuText()); }

  std::string GpuText() const {
    const Gpu& gpu = memory_.gpu();
    return fmt::format("GPU {}{}", gpu.index, gpu.name.empty() ? "" : " (" + gpu.name + ")");
  }

  CudaMemory& memory_;
  PeerMemory peers_;
  PinnedBytes words_;  // of host and kernels: [kWords]
  PeerPlace place_;
  std::atomic<bool> aborted_ = false;
  std::vector<Gone> gone_;  // [ranks]
};

class PeerLinker final : public DeviceLinker {
 public:
  std::string_view name() const override { return kName; }
  bool joins_shared_devices() const override { return true; }
  bool joins_hosts() const override { return false; }
  int most_ranks() const override { return kMostPeers; }
  absl::StatusOr<DeviceLinkId> NewId() const override { return DeviceLinkId(); }

  absl::StatusOr<std::unique_ptr<DeviceLink>> Join(Operations& device, const DeviceLinkId&,
                                                   const DeviceLinkPlace& place,
                                                   DeviceLinkExchange exchange) const override {
    auto link = WithDeviceFailures([&]() -> absl::StatusOr<std::unique_ptr<PeerLink>> {
      return std::make_unique<PeerLink>(static_cast<CudaMemory&>(device.memory()));
    });
    if (!link.ok()) {
      // The others must not wait for what this rank has to offer.
      static_cast<void>(exchange(PeerMemory::NoOffer(link.status())));
      return link.status();
    }
    TANDEM_RETURN_IF_ERROR(WithDeviceFailures([&] { return (*link)->Join(place, exchange); }));
    return *std::move(link);
  }
};

}  // namespace

absl::StatusOr<std::unique_ptr<DeviceLinker>> OpenPeers() { return std::make_unique<PeerLinker>(); }

}  // namespace tandem::core
