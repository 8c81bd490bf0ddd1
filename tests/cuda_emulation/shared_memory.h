#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace tandem::cuda_emulation {

/// A thread, and how many rendezvous of its block and its warp came before.
struct Moment {
  int thread = 0;
  int block_epoch = 0;
  int warp_epoch = 0;
};

/// The shared memory of a block, and who touched which word of it when. Two accesses of one word by
/// different threads, one of them a write, must have a __syncthreads between them, or a __syncwarp
/// of a full warp if both are in it: else the process ends with a report. So does a read of what
/// was never written, and an index outside. Shuffles order nothing, as CUDA has it.
class SharedMemory {
 public:
  explicit SharedMemory(size_t bytes);

  /// Checks a read or write of `words` words at `word` by `now.thread`.
  void CheckRead(size_t word, size_t words, const Moment& now);
  void CheckWrite(size_t word, size_t words, const Moment& now);
  std::byte* data() { return reinterpret_cast<std::byte*>(words_.data()); }

 private:
  struct Word {
    Moment writer{-1, 0, 0};
    Moment readers[2] = {{-1, 0, 0}, {-1, 0, 0}};  // the last two that differ
  };

  std::vector<uint32_t> words_;
  std::vector<Word> shadow_;
};

}  // namespace tandem::cuda_emulation
