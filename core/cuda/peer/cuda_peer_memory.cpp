#include "core/cuda/peer/cuda_peer_memory.h"

#include <cuda_runtime.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <utility>

#include "core/base/mutex.h"
#include "core/base/wire.h"
#include "core/cuda/cuda_driver.h"
#include "core/cuda/kernels/launch.h"
#include "core/cuda/peer/peer_kernels.h"
#include "core/model/device_status.h"

namespace tandem::core {

class SharedMemoryOfRank {
 public:
  explicit SharedMemoryOfRank(std::shared_ptr<std::byte> memory) : memory_(std::move(memory)) {}
  const std::shared_ptr<std::byte>& memory() const { return memory_; }
  bool left() const { return left_; }
  void Leave() { left_ = true; }

 private:
  const std::shared_ptr<std::byte> memory_;
  std::atomic<bool> left_ = false;
};

constexpr size_t kMostProblemBytes = 1 << 12;

template <typename Archive>
void Fields(Archive& archive, ProcessName& name) {
  archive(name.drawn, AtMost(name.boot, 256, "bytes of a boot's name"), name.names, name.number);
}

template <typename Archive>
void Fields(Archive& archive, PeerOffer& offer) {
  archive(AtMost(offer.problem, kMostProblemBytes, "bytes of a problem"), offer.process,
          offer.number, offer.gpu_index, AtMost(offer.gpu_name, 256, "bytes of a GPU's name"),
          AtMost(offer.gpu_id, 256, "bytes of a GPU's id"), offer.handle);
}

namespace {

/// What ranks of this process have given, for one another, by number.
struct InProcess {
  Mutex mutex;
  uint64_t last ABSL_GUARDED_BY(mutex) = 0;
  std::map<uint64_t, std::weak_ptr<SharedMemoryOfRank>> given ABSL_GUARDED_BY(mutex);
  /// What other processes may still have mapped.
  std::vector<std::shared_ptr<SharedMemoryOfRank>> kept ABSL_GUARDED_BY(mutex);
};

InProcess& TheProcess() {
  static auto* const process = new InProcess;  // also for what ends after main
  return *process;
}

std::string GpuText(int index, const std::string& name) {
  return fmt::format("GPU {}{}", index, name.empty() ? "" : " (" + name + ")");
}

/// An error that leaves the GPU as it was, in words.
std::string Forgiven(cudaError_t error) {
  cudaGetLastError();  // or a launch would tell of it
  return cudaGetErrorString(error);
}

/// Which of this process's GPUs that is, by the runtime's number; -1: none that it sees.
int IndexOf(const std::string& gpu_id) {
  for (const Gpu& gpu : FindCudaDriver().gpus) {
    if (gpu.id == gpu_id) return gpu.index;
  }
  return -1;
}

}  // namespace

PeerMemory::PeerMemory(CudaMemory& memory) : memory_(memory) {
  const Gpu& gpu = memory.gpu();
  mine_.process = ThisProcess();
  mine_.gpu_index = gpu.index;
  mine_.gpu_name = gpu.name;
  mine_.gpu_id = gpu.id;
  auto zeroed = memory.AllocateZeroed(kPeerBytes);
  if (absl::IsResourceExhausted(zeroed.status())) {
    mine_.problem = Message(zeroed.status());
    return;
  }
  ThrowDeviceFailure(zeroed.status());
  cudaIpcMemHandle_t handle = {};
  static_assert(sizeof(handle) == sizeof(mine_.handle));
  const cudaError_t error = cudaIpcGetMemHandle(&handle, zeroed->get());
  if (error != cudaSuccess) {
    mine_.problem = fmt::format("{} cannot share its memory: {}", GpuText(gpu.index, gpu.name),
                                Forgiven(error));
    return;
  }
  std::memcpy(mine_.handle.data(), &handle, sizeof(handle));
  shared_ = std::make_shared<SharedMemoryOfRank>(*std::move(zeroed));
  InProcess& process = TheProcess();
  const MutexLock lock(process.mutex);
  mine_.number = ++process.last;
  process.given[mine_.number] = shared_;
}

PeerMemory::~PeerMemory() {
  if (shared_ == nullptr) return;
  shared_->Leave();
  // Others come to what they were offered, though this rank may have failed meanwhile.
  const bool wanted =
      !is_open_ || std::any_of(opened_.begin(), opened_.end(),
                               [](const auto& other) { return other.in_process == nullptr; });
  InProcess& process = TheProcess();
  const MutexLock lock(process.mutex);
  if (wanted) {
    process.kept.push_back(shared_);
  } else {
    process.given.erase(mine_.number);
  }
}

std::vector<std::byte> PeerMemory::offer() const { return Encode(mine_); }

std::vector<std::byte> PeerMemory::NoOffer(const absl::Status& why) {
  return Encode(PeerOffer{.problem = Message(why).substr(0, kMostProblemBytes)});
}

absl::Status PeerMemory::Open(std::span<const std::vector<std::byte>> offers, int rank) {
  opened_.resize(offers.size());
  std::vector<PeerOffer> all;
  for (size_t i = 0; i < offers.size(); ++i) {
    TANDEM_ASSIGN_OR_RETURN(PeerOffer offer,
                            Decode<PeerOffer>(fmt::format("what rank {} offers", i), offers[i]));
    if (!offer.problem.empty()) return Unavailable("rank {}: {}", i, offer.problem);
    all.push_back(std::move(offer));
  }
  UseGpu(memory_.gpu());
  for (size_t i = 0; i < all.size(); ++i) {
    if (std::cmp_equal(i, rank)) {
      opened_[i] = {shared_->memory(), shared_, nullptr};
    } else {
      TANDEM_ASSIGN_OR_RETURN(opened_[i], OpenOne(all[i], static_cast<int>(i)));
    }
  }
  is_open_ = true;
  return absl::OkStatus();
}

absl::StatusOr<PeerMemory::Opened> PeerMemory::OpenOne(const PeerOffer& theirs, int rank) const {
  const std::string whose =
      fmt::format("{} of rank {}", GpuText(theirs.gpu_index, theirs.gpu_name), rank);
  const std::string here = GpuText(mine_.gpu_index, mine_.gpu_name);
  if (theirs.process.boot != mine_.process.boot) {
    return Unavailable("{} does not reach the memory of {}, which is on another host", here, whose);
  }
  const bool same_process = theirs.process.drawn == mine_.process.drawn;
  const int other = same_process ? theirs.gpu_index : IndexOf(theirs.gpu_id);
  if (other >= 0 && other != mine_.gpu_index) {
    int reaches = 0;
    CheckCuda(cudaDeviceCanAccessPeer(&reaches, mine_.gpu_index, other), "cudaDeviceCanAccessPeer");
    if (reaches == 0) {
      return Unavailable("{} does not reach the memory of {}: there is no peer access between them",
                         here, whose);
    }
  }
  if (same_process) {
    if (other != mine_.gpu_index) {
      const cudaError_t error = cudaDeviceEnablePeerAccess(other, 0);
      if (error != cudaSuccess && error != cudaErrorPeerAccessAlreadyEnabled) {
        return Unavailable("{} does not reach the memory of {}: {}", here, whose, Forgiven(error));
      }
      cudaGetLastError();
    }
    InProcess& process = TheProcess();
    const MutexLock lock(process.mutex);
    const auto found = process.given.find(theirs.number);
    auto shared = found == process.given.end() ? nullptr : found->second.lock();
    if (shared == nullptr) return Unavailable("rank {} has left", rank);
    return Opened{shared->memory(), shared, nullptr};
  }
  cudaIpcMemHandle_t handle = {};
  std::memcpy(&handle, theirs.handle.data(), sizeof(handle));
  void* opened = nullptr;
  const cudaError_t error = cudaIpcOpenMemHandle(&opened, handle, cudaIpcMemLazyEnablePeerAccess);
  if (error != cudaSuccess) {
    return Unavailable("{} does not reach the memory of {}: {}", here, whose, Forgiven(error));
  }
  return Opened{{static_cast<std::byte*>(opened),
                 [](std::byte* memory) { static_cast<void>(cudaIpcCloseMemHandle(memory)); }},
                nullptr,
                std::make_unique<ProcessWatch>(theirs.process)};
}

bool PeerMemory::gone(size_t rank) const {
  const Opened& other = opened_[rank];
  return other.in_process != nullptr ? other.in_process->left() : other.process->ended();
}

}  // namespace tandem::core
