#pragma once

#include <boost/context/fiber.hpp>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "tests/cuda_emulation/async_copies.h"
#include "tests/cuda_emulation/shared_memory.h"

namespace tandem::cuda_emulation {

/// Where in the source a thread waits.
struct Site {
  const char* file = "";
  int line = 0;
};

/// Ends the process with what a kernel did wrong. It names the block, and the thread if one runs.
[[noreturn]] void Fail(const std::string& what);

/// Where a block stands in its grid, and how it is shaped.
struct BlockPlace {
  unsigned x, y, z;
  unsigned threads_x, threads_y, threads_z;
  size_t shared_bytes;
  bool starts_early;  // while the kernel before it still runs
};

/// One block of a kernel: its threads are fibers of the host thread that runs it, always the same.
///
/// Which fiber goes on is random by a seed, at the start and after every rendezvous. A rendezvous
/// at which not all threads of the block (or of a warp's mask) arrive ends the process and is told:
/// threads that returned, that wait elsewhere, or that name another mask. Stricter than a GPU,
/// which lets some of this pass. Shared memory is poisoned before the block begins.
class Block {
 public:
  static constexpr int kWarp = 32;

  /// thread: what each of its threads runs. It must outlive the block.
  Block(const BlockPlace& place, uint64_t seed, const std::function<void()>& thread);

  /// Goes on until all threads have returned, which is true; or until none can go on but those that
  /// wait in loops for other grids: then it is to be called again.
  bool Advance();

  /// The block that this host thread runs; a bug if there is none.
  static Block& Current();
  /// Nothing where no kernel runs.
  static Block* CurrentOrNull();

  // Of the running thread.
  int thread() const { return running_; }
  int lane() const { return running_ % kWarp; }
  void SyncThreads(const Site& site);
  void SyncWarp(uint32_t mask, const Site& site);
  /// What the lane `source` of the warp gave.
  uint64_t Exchange(uint32_t mask, uint64_t value, int source, const Site& site);
  uint32_t Ballot(uint32_t mask, bool predicate, const Site& site);
  /// What every lane of a full warp gave.
  void ExchangeAll(uint64_t value, uint64_t (&all)[kWarp], const Site& site);
  /// A rendezvous of a full warp that orders no memory.
  void SyncFragments(const Site& site) { Ballot(0xffffffff, false, site); }

  /// The running thread waits in a loop for what another grid stores: others go on first.
  void PauseInLoop();

  /// Every thread of a kernel that starts early must come here before it returns.
  void WaitForKernelBefore() { threads_[static_cast<size_t>(running_)].waited = true; }

  AsyncCopies& copies() { return threads_[static_cast<size_t>(running_)].copies; }

  SharedMemory& shared() { return shared_; }
  /// When the running thread was last ordered with others, for SharedMemory.
  Moment moment() const { return {running_, block_epoch_, warp_epochs_[running_ / kWarp]}; }
  std::string Name() const;

 private:
  enum class Wait { kNone, kBlock, kWarp, kExchange, kExchangeAll, kBallot, kLoop, kReturned };

  struct Thread {
    boost::context::fiber fiber;
    Wait wait = Wait::kNone;
    Site site;
    uint32_t mask = 0;
    int source = 0;
    uint64_t value = 0;       // given
    uint64_t result = 0;      // got
    uint64_t* all = nullptr;  // where what all gave is wanted
    bool waited = false;      // for the kernel before
    AsyncCopies copies;
  };

  void Begin();
  void Resume(int thread);
  void MeetInWarp(Wait wait, uint32_t mask, const Site& site);
  void ReleaseBlock();
  void ReleaseWarp(int first, uint32_t mask);
  void Release(int thread);
  [[noreturn]] void FailStuck() const;

  BlockPlace place_;
  uint64_t random_;
  const std::function<void()>& thread_function_;
  bool begun_ = false;
  SharedMemory shared_;
  std::vector<Thread> threads_;
  std::vector<int> ready_;
  std::vector<int> in_loops_;
  std::vector<int> warp_epochs_;  // full rendezvous of each warp
  int block_epoch_ = 0;           // of the block
  int arrived_ = 0;               // threads at the rendezvous of the block
  int running_ = 0;
  bool in_thread_ = false;
  boost::context::fiber scheduler_;
};

}  // namespace tandem::cuda_emulation
