#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "absl/functional/function_ref.h"
#include "core/base/status.h"

namespace tandem::core {

/// What the first rank gives to all others, so that their devices find each other.
using DeviceLinkId = std::array<std::byte, 128>;

/// What joins the devices of all ranks, so that their reductions need not pass through the hosts:
/// NCCL, or memory that all GPUs of a host map.
///
/// All ranks call the same reductions in the same order with the same sizes. What they are given
/// lies in the device's memory. They put work into the device's stream and return; nothing waits.
/// Errors are kUnavailable, and one that a reduction meets on the device is told by Health. Thread
/// safety: one thread calls, but for Abort.
class DeviceLink {
 public:
  virtual ~DeviceLink() = default;
  /// "NCCL 2.28.9"
  virtual std::string_view name() const = 0;

  /// Adds `values` over all ranks, in place.
  virtual absl::Status AllReduceSum(std::span<int64_t> values) = 0;
  virtual absl::Status AllReduceSum(std::span<float> values) = 0;
  /// Memory of the device, at least so much, where a reduction of floats is faster than elsewhere;
  /// none: there is no such memory, or not so much. It is the same with each call, and the link's.
  virtual std::span<std::byte> FloatSums(size_t bytes) {
    static_cast<void>(bytes);
    return {};
  }
  /// Everyone's `mine` in rank order into `all`; mine may be its place in all.
  virtual absl::Status AllGather(std::span<const std::byte> mine, std::span<std::byte> all) = 0;

  /// Whether all is well with what was put into the stream.
  virtual absl::Status Health() = 0;
  /// Ends what was put into the stream, so that nobody waits for other ranks any more. What it
  /// gives then is not used. Any thread.
  virtual void Abort() = 0;
  /// Waits until all that was put into the stream is done. Errors: those of Health;
  /// kDeadlineExceeded, after which the link is given up as by Abort.
  virtual absl::Status Finish(std::chrono::milliseconds patience) = 0;
};

class Operations;

/// A rank among those whose devices are joined.
struct DeviceLinkPlace {
  int rank = 0;
  int ranks = 1;
  bool shares_device = false;  // some rank computes on a device of another one
  bool floats = false;         // sums of floats are what will be reduced
  /// How long all ranks may take to come.
  std::chrono::milliseconds patience = std::chrono::minutes(2);
};

/// Carries what ranks say to one another before they are joined: everyone's bytes in rank order, at
/// most 1 MiB each.
using DeviceLinkExchange = absl::FunctionRef<absl::StatusOr<std::vector<std::vector<std::byte>>>(
    std::span<const std::byte> mine)>;

/// Makes links. Thread safety: any thread.
class DeviceLinker {
 public:
  virtual ~DeviceLinker() = default;
  /// "NCCL 2.28.9": the same on all ranks that can be joined.
  virtual std::string_view name() const = 0;
  /// Whether ranks that share a device can be joined.
  virtual bool joins_shared_devices() const = 0;
  /// Whether ranks on several hosts can be joined.
  virtual bool joins_hosts() const = 0;
  virtual int most_ranks() const = 0;
  /// For all ranks, from one of them.
  virtual absl::StatusOr<DeviceLinkId> NewId() const = 0;
  /// Joins a rank's device, which must outlive the link, to those of the other ranks. Called by all
  /// of them together with one id; returns when all have come. It calls `exchange` on all ranks or
  /// on none, once, whatever fails. kUnavailable, or kDeadlineExceeded.
  virtual absl::StatusOr<std::unique_ptr<DeviceLink>> Join(Operations& device,
                                                           const DeviceLinkId& id,
                                                           const DeviceLinkPlace& place,
                                                           DeviceLinkExchange exchange) const = 0;
};

}  // namespace tandem::core
