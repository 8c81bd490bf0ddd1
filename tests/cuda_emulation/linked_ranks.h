#pragma once

#include <algorithm>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/cuda/cuda_memory.h"
#include "core/cuda/cuda_reductions.h"
#include "core/device/device.h"
#include "core/formats/model_file.h"
#include "parallel/links/linked_communicator.h"
#include "tests/support/tiny_model.h"

/// Ranks whose emulated GPUs are joined, for tests.
namespace tandem::parallel {

/// How ranks are joined.
struct LinkOf {
  bool nccl = false;
  bool peers = false;
  bool shares_device = false;
  bool hosts_if_faster = false;
};

/// A rank with its GPU.
struct LinkedRank {
  LinkedRank(Communicator& of, int gpu)
      : world(of),
        bytes(testing::TinyModel({})),
        file(*core::ModelFile::OpenBuffer(bytes, "tiny")),
        device(*core::MakeDevice({.kind = core::DeviceKind::kCuda,
                                  .cpu = {},
                                  .gpu = {.index = gpu, .name = {}, .id = {}}},
                                 file->config(), core::WholeModel(file->config()))) {}

  absl::Status Link(const LinkOf& of) {
    LinkWish wish{.device = *device,
                  .shares_device = of.shares_device,
                  .hosts_if_faster = of.hosts_if_faster};
    if (of.nccl) wish.linker = core::OpenLinker(core::DeviceKind::kCuda);
    if (of.peers) wish.peer_linker = core::OpenPeerLinker(core::DeviceKind::kCuda);
    TANDEM_ASSIGN_OR_RETURN(LinkedWorld made, LinkDevices(world, wish));
    if (made.world == nullptr) return Internal("{}", made.problem);
    linked = std::move(made.world);
    note = made.note;
    return absl::OkStatus();
  }

  Communicator& world;
  const std::vector<std::byte> bytes;
  const std::unique_ptr<core::ModelFile> file;
  const std::unique_ptr<core::Operations> device;
  std::unique_ptr<LinkedCommunicator> linked;
  std::string note;
};

/// Device memory with these bytes in it.
inline std::shared_ptr<std::byte> Sent(core::DeviceMemory& memory,
                                       std::span<const std::byte> bytes) {
  auto sent = memory.Allocate(static_cast<int64_t>(bytes.size()));
  const core::CopyRun run{sent.get(), const_cast<std::byte*>(bytes.data()), bytes.size()};
  core::ThrowDeviceFailure(memory.CopyFromHost({&run, 1}));
  return sent;
}

/// What the suite of communicators asks for, done on the devices: values are put there, reduced,
/// and read back.
class OnDevices final : public Communicator {
 public:
  OnDevices(Communicator& world, core::Operations& device)
      : world_(world),
        memory_(static_cast<core::CudaMemory&>(device.memory())),
        reductions_(memory_) {}
  int rank() const override { return world_.rank(); }
  int size() const override { return world_.size(); }
  const std::vector<std::string>& hosts() const override { return world_.hosts(); }

  absl::Status AllReduceSum(std::span<int64_t> values, const core::StepPhase& phase) override {
    const auto sums = Sent(memory_, std::as_bytes(std::span<const int64_t>(values)));
    TANDEM_RETURN_IF_ERROR(world_.device_link()->AllReduceSum(
        std::span(reinterpret_cast<int64_t*>(sums.get()), values.size())));
    return Take(sums.get(), std::as_writable_bytes(values), phase);
  }
  absl::Status AllGather(std::span<const std::byte> mine, std::span<std::byte> all,
                         const core::StepPhase& phase) override {
    const auto sent = Sent(memory_, mine);
    const auto gathered = memory_.Allocate(static_cast<int64_t>(all.size()));
    TANDEM_RETURN_IF_ERROR(
        world_.device_link()->AllGather({sent.get(), mine.size()}, {gathered.get(), all.size()}));
    return Take(gathered.get(), all, phase);
  }
  absl::Status Barrier() override {
    int64_t one = 1;
    return AllReduceSum({&one, 1}, {});
  }
  absl::Status Broadcast(std::span<std::byte> bytes) override {
    std::vector<std::byte> all(bytes.size() * static_cast<size_t>(size()));
    TANDEM_RETURN_IF_ERROR(AllGather(bytes, all, {}));
    std::copy_n(all.begin(), bytes.size(), bytes.begin());
    return absl::OkStatus();
  }
  void Abort(const absl::Status& why) override { world_.Abort(why); }
  void PublishTo(ProgressBoard* board) override { world_.PublishTo(board); }

 private:
  absl::Status Take(std::byte* from, std::span<std::byte> to, const core::StepPhase& phase) {
    const core::CopyRun run{from, to.data(), to.size()};
    reductions_.BeginStep();
    reductions_.Put(world_, phase);
    return core::WithDeviceFailures([&] { reductions_.CopyToHost({&run, 1}); });
  }

  Communicator& world_;
  core::CudaMemory& memory_;
  core::CudaReductions reductions_;
};

/// A reduction of a few sums on every rank, in this phase.
inline absl::Status Reduce(Communicator& devices, const core::StepPhase& phase) {
  std::vector<int64_t> values = {1, 2, 3};
  return devices.AllReduceSum(values, phase);
}

}  // namespace tandem::parallel
