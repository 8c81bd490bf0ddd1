#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <thread>
#include <vector>

#include "tests/cuda_emulation/block.h"
#include "tests/cuda_emulation/cuda_runtime.h"
#include "tests/cuda_emulation/device_buffers.h"

namespace tandem::cuda_emulation {

/// A grid of a kernel: its blocks run one after the other, in an order that is random by a seed.
///
/// Blocks of a kernel that wait in loops for another grid wait for the blocks of their number
/// there: they run in the order of their numbers, which is the same on all GPUs. That a kernel
/// waits is known once a block of it has done so; that block then goes on beside the others.
class Grid {
 public:
  Grid(const cudaLaunchConfig_t& config, const void* kernel, bool starts_early, uint64_t seed,
       const std::function<void()>& thread, int gpu);

  /// Goes on as far as it can: true at its end. Only the host thread that began it goes on with it;
  /// others find that it waits.
  bool Advance();

 private:
  bool AdvanceBlocks();
  std::unique_ptr<Block> Make(size_t index) const;

  const dim3 grid_;
  const dim3 block_;
  const size_t shared_bytes_;
  const void* const kernel_;
  const bool starts_early_;
  const uint64_t seed_;
  const std::function<void()> thread_;
  const int gpu_;
  std::optional<DeviceAtWork> at_work_;  // while it waits
  std::thread::id owner_;
  std::vector<size_t> order_;
  size_t next_ = 0;  // of the order
  bool in_order_ = false;
  std::unique_ptr<Block> first_waiting_;  // that told that the kernel waits
  std::unique_ptr<Block> current_;
};

}  // namespace tandem::cuda_emulation
