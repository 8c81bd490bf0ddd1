#pragma once

#include <cstddef>
#include <deque>
#include <vector>

#include "tests/cuda_emulation/shared_memory.h"

namespace tandem::cuda_emulation {

/// The asynchronous copies of one thread into shared memory, cp.async. They arrive as late as they
/// may, and from when they are put on, their place is poison.
class AsyncCopies {
 public:
  /// Copies `bytes`, to which both places are aligned, to byte `to`.
  void Put(size_t to, const void* from, size_t bytes);
  /// What was put since the last call is a group.
  void Commit();
  /// All groups but the last `groups` arrive.
  void Wait(size_t groups);
  /// Whether everything has arrived.
  bool done() const { return groups_.empty() && open_.empty(); }

 private:
  struct Copy {
    size_t to;
    const void* from;
    size_t bytes;
  };
  std::vector<Copy> open_;
  std::deque<std::vector<Copy>> groups_;
};

}  // namespace tandem::cuda_emulation
