#pragma once

#include <chrono>
#include <memory>
#include <string>

#include "core/model/device_link.h"
#include "core/model/operations.h"
#include "parallel/communicators/communicator.h"

namespace tandem::parallel {

/// A world whose devices are joined: reductions of what lies on devices go by the link, all else by
/// the world. While a rank waits for its device, its board shows how far that has come. Errors name
/// rank, host and the reduction.
class LinkedCommunicator final : public Communicator {
 public:
  /// `world` must outlive it.
  LinkedCommunicator(Communicator& world, std::unique_ptr<core::DeviceLink> link)
      : world_(world), link_(std::move(link)) {}

  std::string_view link_name() const { return link_->name(); }

  int rank() const override { return world_.rank(); }
  int size() const override { return world_.size(); }
  const std::vector<std::string>& hosts() const override { return world_.hosts(); }
  absl::Status AllReduceSum(std::span<int64_t> values, const core::StepPhase& phase) override {
    return world_.AllReduceSum(values, phase);
  }
  absl::Status AllReducePartialSums(std::span<int64_t> values,
                                    const core::StepPhase& phase) override {
    return world_.AllReducePartialSums(values, phase);
  }
  absl::Status AllGather(std::span<const std::byte> mine, std::span<std::byte> all,
                         const core::StepPhase& phase) override {
    return world_.AllGather(mine, all, phase);
  }
  absl::Status Barrier() override { return world_.Barrier(); }
  absl::Status Broadcast(std::span<std::byte> bytes) override { return world_.Broadcast(bytes); }
  void Abort(const absl::Status& why) override {
    link_->Abort();
    world_.Abort(why);
  }
  absl::Status SetPatience(const CollectivePatience& patience) override {
    return world_.SetPatience(patience);
  }
  void FinishStart() override { world_.FinishStart(); }
  void PublishTo(ProgressBoard* board) override {
    Communicator::PublishTo(board);
    world_.PublishTo(board);
  }

  core::DeviceLink* device_link() const override { return link_.get(); }
  absl::Status WaitForDevice(absl::FunctionRef<bool()> done,
                             absl::FunctionRef<core::DevicePlace()> place) override;

 private:
  Communicator& world_;
  std::unique_ptr<core::DeviceLink> link_;
  absl::Status error_;
};

/// How a rank would have its device joined to those of the others. A linker that is null is not
/// wanted.
struct LinkWish {
  core::Operations& device;
  /// What OpenLinker gave: it joins any ranks.
  absl::StatusOr<std::unique_ptr<core::DeviceLinker>> linker = nullptr;
  /// What OpenPeerLinker gave: it joins ranks of one host.
  absl::StatusOr<std::unique_ptr<core::DeviceLinker>> peer_linker = nullptr;
  bool shares_device = false;  // with another rank
  bool floats = false;         // as DeviceLinkPlace has it; the same on all ranks
  /// Where ranks share devices and only peer_linker joins them, whether they meet through their
  /// hosts if that is faster.
  bool hosts_if_faster = false;
  /// How long all ranks may take to join.
  std::chrono::milliseconds patience = std::chrono::minutes(2);
};

struct LinkedWorld {
  std::unique_ptr<LinkedCommunicator> world;  // null: the devices are not joined
  std::string problem;                        // why not, naming rank and host
  std::string note;  // where they are: why one of the linkers has no part in it, or how fast it is
};

/// Joins the devices of all ranks. Where both linkers can, both are timed, and the second is for
/// reductions up to the size where it is the faster one. Called by all together; all get the same.
/// Errors: those of `world`, and of ranks that could not be joined by `linker` though all had what
/// is needed, naming rank and host.
absl::StatusOr<LinkedWorld> LinkDevices(Communicator& world, const LinkWish& wish);

}  // namespace tandem::parallel
