#include <algorithm>

#include "core/cuda/kernels/device_code.h"
#include "core/cuda/kernels/launch.h"
#include "core/cuda/peer/peer_kernels.h"

namespace tandem::core {
namespace {

constexpr unsigned kThreads = 512;
constexpr uint32_t kRoundsBetweenLooks = 256;  // at the host's word, which is far away

__device__ PeerWords& WordsOf(const PeerPlace& place, int rank) {
  return *reinterpret_cast<PeerWords*>(place.memory[rank]);
}

template <typename T>
__device__ T* SlotOf(const PeerPlace& place, int rank, uint32_t epoch) {
  return reinterpret_cast<T*>(place.memory[rank] + kPeerSlotBegin + epoch % 2 * kPeerSlotBytes);
}

/// Waits until the block of this number of another rank has come to the epoch. False where the host
/// gives up.
__device__ bool WaitFor(const PeerPlace& place, int other, uint32_t epoch) {
  const uint32_t* const came = &WordsOf(place, place.rank).came[blockIdx.x][other];
  uint32_t rounds = 0;
  while (static_cast<int32_t>(LoadOfAll(came) - epoch) < 0) {
    if (++rounds % kRoundsBetweenLooks == 0) {
      if (LoadOfAll(place.given_up) != 0) return false;
      *static_cast<volatile uint32_t*>(place.waits + other) = rounds + blockIdx.x;
    }
    PauseInLoop();
  }
  return true;
}

/// After all threads of the block have written the rank's part: true in all of them once the parts
/// of all ranks are there. shared: [kMostPeers]
__device__ bool MeetPeers(const PeerPlace& place, uint32_t epoch,
                          const SharedArray<uint32_t>& shared) {
  __syncthreads();
  const auto other = static_cast<int>(threadIdx.x);
  if (other < place.ranks) {
    bool here = true;
    if (other != place.rank) {
      StoreForAll(&WordsOf(place, other).came[blockIdx.x][place.rank], epoch);
      here = WaitFor(place, other, epoch);
    }
    shared[other] = here ? 1 : 0;
  }
  __syncthreads();
  uint32_t all = 1;
  for (int rank = 0; rank < place.ranks; ++rank) all &= shared[rank];
  return all != 0;
}

/// The last block of a kernel says that its epoch is done.
__device__ void FinishEpoch(PeerWords& words, uint32_t epoch) {
  __syncthreads();
  if (threadIdx.x != 0 || atomicAdd(&words.finished, 1U) + 1 < gridDim.x) return;
  words.finished = 0;
  words.epoch = epoch;
}

constexpr int kPackBytes = 16;  // that a thread takes from a slot at once

template <typename T>
struct alignas(kPackBytes) Pack {
  static constexpr int kCount = kPackBytes / sizeof(T);
  T v[kCount];
};

/// Values of a rank in packs. Which thread has which pack follows from their number alone, and not
/// from where they lie, since that may differ between ranks.
template <typename T>
struct PackedValues {
  static constexpr int kCount = Pack<T>::kCount;
  int64_t count;  // of values
  bool aligned;   // to packs

  __device__ int64_t packs() const { return (count + kCount - 1) / kCount; }
  __device__ bool whole(int64_t i) const { return aligned && (i + 1) * kCount <= count; }
  /// The i-th pack; 0 behind the last value.
  __device__ Pack<T> Load(const T* values, int64_t i) const {
    if (whole(i)) return reinterpret_cast<const Pack<T>*>(values)[i];
    Pack<T> pack = {};
#pragma unroll
    for (int k = 0; k < kCount; ++k) {
      if (i * kCount + k < count) pack.v[k] = values[i * kCount + k];
    }
    return pack;
  }
  __device__ void Store(const Pack<T>& pack, int64_t i, T* values) const {
    if (whole(i)) {
      reinterpret_cast<Pack<T>*>(values)[i] = pack;
      return;
    }
#pragma unroll
    for (int k = 0; k < kCount; ++k) {
      if (i * kCount + k < count) values[i * kCount + k] = pack.v[k];
    }
  }
};

/// kRanks: as many as there are, so that a thread loads from all of them at once; 0: any number.
template <typename T, int kRanks>
__global__ void PeerSumKernel(const __grid_constant__ PeerPlace place, PackedValues<T> packed,
                              T* values) {
  BeginKernel();
  PeerWords& words = WordsOf(place, place.rank);
  const uint32_t epoch = words.epoch + 1;
  const int64_t packs = packed.packs();
  const int64_t first = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  auto* const mine = SlotOf<Pack<T>>(place, place.rank, epoch);
  for (int64_t i = first; i < packs; i += step) mine[i] = packed.Load(values, i);
  if (MeetPeers(place, epoch, SharedArray<uint32_t>(0))) {
    const int ranks = kRanks > 0 ? kRanks : place.ranks;
    for (int64_t i = first; i < packs; i += step) {
      Pack<T> sum = SlotOf<Pack<T>>(place, 0, epoch)[i];
#pragma unroll
      for (int rank = 1; rank < ranks; ++rank) {
        const Pack<T> other = SlotOf<Pack<T>>(place, rank, epoch)[i];
#pragma unroll
        for (int k = 0; k < Pack<T>::kCount; ++k) sum.v[k] += other.v[k];
      }
      packed.Store(sum, i, values);
    }
  }
  FinishEpoch(words, epoch);
}

/// stride: in T's.
template <typename T>
__global__ void PeerGatherKernel(const __grid_constant__ PeerPlace place, PackedValues<T> packed,
                                 const T* mine, T* all, int64_t stride) {
  BeginKernel();
  PeerWords& words = WordsOf(place, place.rank);
  const uint32_t epoch = words.epoch + 1;
  const int64_t packs = packed.packs();
  const int64_t first = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  auto* const slot = SlotOf<Pack<T>>(place, place.rank, epoch);
  for (int64_t i = first; i < packs; i += step) slot[i] = packed.Load(mine, i);
  if (MeetPeers(place, epoch, SharedArray<uint32_t>(0))) {
    for (int rank = 0; rank < place.ranks; ++rank) {
      const auto* const theirs = SlotOf<Pack<T>>(place, rank, epoch);
      T* const to = all + rank * stride;
      for (int64_t i = first; i < packs; i += step) packed.Store(theirs[i], i, to);
    }
  }
  FinishEpoch(words, epoch);
}

/// The same on all ranks.
unsigned PeerBlocks(int64_t bytes) {
  return static_cast<unsigned>(
      std::min<int64_t>(kMostPeerBlocks, Blocks(bytes, int64_t{kThreads} * kPackBytes)));
}

constexpr size_t kSharedBytes = kMostPeers * sizeof(uint32_t);

bool IsAligned(uintptr_t address, size_t to) { return address % to == 0; }

template <typename T>
void LaunchSum(CudaStream stream, const PeerPlace& place, T* values, int64_t count) {
  const PackedValues<T> packed = {count,
                                  IsAligned(reinterpret_cast<uintptr_t>(values), kPackBytes)};
  const auto launch = [&](auto* kernel) {
    Launch(stream, PeerBlocks(count * static_cast<int64_t>(sizeof(T))), kThreads, kSharedBytes,
           kernel, place, packed, values);
  };
  switch (place.ranks) {
    case 2:
      return launch(PeerSumKernel<T, 2>);
    case 4:
      return launch(PeerSumKernel<T, 4>);
    case 8:
      return launch(PeerSumKernel<T, 8>);
    default:
      return launch(PeerSumKernel<T, 0>);
  }
}

template <typename T>
void LaunchGather(CudaStream stream, const PeerPlace& place, const std::byte* mine, int64_t bytes,
                  std::byte* all, int64_t stride, uintptr_t together) {
  constexpr auto kEach = static_cast<int64_t>(sizeof(T));
  const PackedValues<T> packed = {bytes / kEach, IsAligned(together, kPackBytes)};
  Launch(stream, PeerBlocks(bytes), kThreads, kSharedBytes, PeerGatherKernel<T>, place, packed,
         reinterpret_cast<const T*>(mine), reinterpret_cast<T*>(all), stride / kEach);
}

}  // namespace

void LaunchPeerSum(CudaStream stream, const PeerPlace& place, int64_t* values, int64_t count) {
  LaunchSum(stream, place, values, count);
}
void LaunchPeerSum(CudaStream stream, const PeerPlace& place, float* values, int64_t count) {
  LaunchSum(stream, place, values, count);
}

void LaunchPeerGather(CudaStream stream, const PeerPlace& place, const std::byte* mine,
                      int64_t bytes, std::byte* all, int64_t stride) {
  const uintptr_t together = reinterpret_cast<uintptr_t>(mine) | reinterpret_cast<uintptr_t>(all) |
                             static_cast<uintptr_t>(bytes) | static_cast<uintptr_t>(stride);
  if (IsAligned(together, sizeof(uint32_t))) {
    LaunchGather<uint32_t>(stream, place, mine, bytes, all, stride, together);
  } else {
    LaunchGather<unsigned char>(stream, place, mine, bytes, all, stride, together);
  }
}

}  // namespace tandem::core
