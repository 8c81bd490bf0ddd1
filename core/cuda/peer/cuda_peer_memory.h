#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/base/status.h"
#include "core/cuda/cuda_memory.h"
#include "core/cuda/peer/process_watch.h"

namespace tandem::core {

/// What a rank says of the memory that it lets others map. A rank that has none says why.
struct PeerOffer {
  std::string problem = {};
  ProcessName process = {};
  uint64_t number = 0;  // of the memory in its process
  int32_t gpu_index = 0;
  std::string gpu_name = {};
  std::string gpu_id = {};
  std::array<uint8_t, 64> handle = {};  // cudaIpcMemHandle_t
};

/// Memory of a rank's GPU that other ranks of its host map: zeroed at first. Thread safety: left()
/// and Leave(), any thread.
class SharedMemoryOfRank;

/// The memory of all ranks, as this rank's GPU sees it.
///
/// What this rank gave is never freed while others may use it: ranks of its process hold it
/// themselves; for ranks of other processes, and where Open fails, it stays until the process ends.
class PeerMemory {
 public:
  /// kPeerBytes of the memory's GPU. Throws DeviceFailure, but where the GPU's memory cannot be
  /// shared at all: offer() says so.
  explicit PeerMemory(CudaMemory& memory);
  ~PeerMemory();
  PeerMemory(const PeerMemory&) = delete;
  PeerMemory& operator=(const PeerMemory&) = delete;

  /// For the other ranks.
  std::vector<std::byte> offer() const;
  /// Of a rank that could not even make it.
  static std::vector<std::byte> NoOffer(const absl::Status& why);
  /// Maps what the others offered: [ranks], this one's among them. kUnavailable where the GPU does
  /// not reach the memory of another, naming both.
  absl::Status Open(std::span<const std::vector<std::byte>> offers, int rank);

  /// Of each rank, once it is open. [kPeerBytes] on the device
  std::byte* of_rank(size_t rank) const { return opened_[rank].memory.get(); }
  /// Whether another rank will not come any more: its process has ended, or it has left.
  bool gone(size_t rank) const;

 private:
  struct Opened {
    std::shared_ptr<std::byte> memory;
    std::shared_ptr<const SharedMemoryOfRank> in_process;  // null: of another process
    std::unique_ptr<ProcessWatch> process;
  };
  absl::StatusOr<Opened> OpenOne(const PeerOffer& theirs, int rank) const;

  CudaMemory& memory_;
  PeerOffer mine_;
  std::shared_ptr<SharedMemoryOfRank> shared_;
  std::vector<Opened> opened_;  // [ranks]
  bool is_open_ = false;
};

}  // namespace tandem::core
