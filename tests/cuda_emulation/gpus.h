#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

/// The GPUs that the emulated runtime finds, and what goes wrong with them. The environment sets
/// the same for a process: EMULATED_GPUS (a number), EMULATED_GPU_MEMORY (bytes of each, or of one
/// after the other: 4000,2000), EMULATED_GPU_SPEED (bytes that each copies a second, likewise, by
/// the clock of events), EMULATED_GPU_CAPABILITY (major), EMULATED_GPU_SHARED_BYTES (of a block of
/// threads, at most), EMULATED_GPU_DRIVER (of the NVIDIA driver, as CUDA counts versions, or of one
/// rank of MPI after the other; 0: none), EMULATED_GPU_FAILURE (as FailFrom),
/// EMULATED_GPU_WITHOUT_PEERS (a GPU, as Gpus has it), EMULATED_GPU_HANDLES (0: none can be
/// opened), EMULATED_GPU_LOSES=GPU:N (as Gpus has it), EMULATED_GPU_DIES=GPU:N (the process ends
/// when that GPU stores its n-th word for others). The last of a list is that of all further ones.
/// Thread safety: all functions.
namespace tandem::cuda_emulation {

struct Gpus {
  int count = 1;
  size_t bytes = size_t{4} << 30;     // of memory, each
  std::vector<size_t> bytes_of = {};  // of the first ones, where they differ
  size_t shared_bytes = 163 << 10;    // of a block of threads, at most: of compute capability 8.0
  int major = 9;                      // compute capability
  int driver = 13000;
  int processors = 7;         // so few that blocks of threads have much to do
  int without_peers = -1;     // a GPU that reaches no other, and that none reaches; -1: none is
  bool opens_handles = true;  // of memory of other processes
  int loses = -1;             // a GPU that loses words that it stores for others: from the n-th on
  int64_t loses_from = 0;
  std::vector<size_t> bytes_per_second = {size_t{1} << 40};  // of copies, as events tell it

  size_t BytesOf(int gpu) const {
    return bytes_of.empty() ? bytes : bytes_of[std::min(Place(gpu), bytes_of.size() - 1)];
  }
  size_t SpeedOf(int gpu) const {
    return bytes_per_second[std::min(Place(gpu), bytes_per_second.size() - 1)];
  }
  static size_t Place(int gpu) { return static_cast<size_t>(gpu); }
};
/// From now on.
void SetGpus(const Gpus& gpus);
const Gpus& TheGpus();

/// That the calling thread uses.
int CurrentGpu();
void SetCurrentGpu(int gpu);

/// How many calls of the runtime there were in this process, but for those that only ask for texts,
/// versions and the thread's own state.
int64_t Calls();
/// From the n-th next call on (1: the next), all calls fail with this error, as when a GPU falls
/// off the bus; 0: none does.
void FailFrom(int64_t n, int error);
/// Counts a word that a kernel of the calling thread stores for others. Whether it comes there.
bool NextStoreArrives();
/// Counts a call of the runtime. The error with which it must fail, or 0.
int NextCall();

}  // namespace tandem::cuda_emulation
