#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include "absl/functional/function_ref.h"
#include "core/base/status.h"

namespace tandem::core {

/// Where a rank is in a step: published to the watchdog before each collective, and named in
/// errors.
struct StepPhase {
  enum class Kind : uint8_t { kAttention, kFeedForward, kVocabulary, kOther };
  uint64_t step = 0;
  int32_t layer = -1;
  Kind kind = Kind::kOther;
};

class DeviceLink;  // device_link.h

/// How far a device has come with the reductions that were put into its stream.
struct DevicePlace {
  uint64_t reductions = 0;  // done since the host waited last
  StepPhase phase;          // of the next one
};

/// What a forward pass asks of the other ranks.
///
/// All ranks call the same operations in the same order with the same sizes; they follow from the
/// step plan, and from what all ranks have gathered. One thread a rank calls. The first error
/// sticks: after it every call returns it. Implementations: OneRank here; threads, MPI and NCCL in
/// parallel/.
class Collective {
 public:
  virtual ~Collective() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;

  /// Adds `values` over all ranks, in place. Integers, so any algorithm gives the same bits.
  virtual absl::Status AllReduceSum(std::span<int64_t> values, const StepPhase& phase) = 0;

  /// The same for sums, which are only rounded to float32 afterwards (numerics.md, rule 3):
  /// each becomes the sum, or another integer that rounds to the same float32.
  virtual absl::Status AllReducePartialSums(std::span<int64_t> values, const StepPhase& phase) {
    return AllReduceSum(values, phase);
  }

  /// Everyone's `mine` in rank order into `all`; all.size() == size() * mine.size(), equal sizes on
  /// all ranks.
  virtual absl::Status AllGather(std::span<const std::byte> mine, std::span<std::byte> all,
                                 const StepPhase& phase) = 0;

  /// What joins the devices of all ranks; null: reductions pass through the hosts.
  virtual DeviceLink* device_link() const { return nullptr; }
  /// Waits until done(), which needs what other ranks put into device_link(), too. place() says how
  /// far this rank's device has come, for errors and the watchdog; with all reductions once done()
  /// was true. kUnavailable if it is given up.
  virtual absl::Status WaitForDevice(absl::FunctionRef<bool()> done,
                                     absl::FunctionRef<DevicePlace()> place) {
    static_cast<void>(place);
    while (!done()) {
    }
    return absl::OkStatus();
  }
};

/// The world of one rank.
class OneRank final : public Collective {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }
  absl::Status AllReduceSum(std::span<int64_t>, const StepPhase&) override {
    return absl::OkStatus();
  }
  absl::Status AllGather(std::span<const std::byte> mine, std::span<std::byte> all,
                         const StepPhase&) override {
    if (!mine.empty()) std::memcpy(all.data(), mine.data(), mine.size());
    return absl::OkStatus();
  }
};

}  // namespace tandem::core
