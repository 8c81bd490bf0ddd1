#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "core/model/collective.h"

namespace tandem::parallel {

/// Where one rank was last seen.
struct RankProgress {
  core::StepPhase phase;
  uint64_t collectives = 0;  // collectives entered so far; equal on all ranks once a step is done
  bool waiting = false;      // inside the collective: entered and not yet left
  std::chrono::steady_clock::time_point since;  // of the last entering or leaving
  bool heard = false;  // what another process said of its rank, some time ago
};

/// The ranks' places in a step, written by each rank as it enters and leaves a collective and read
/// by a watchdog.
///
/// A process under MPI writes its own rank's entry. Of the others rank 0 puts here what they say of
/// themselves (parallel/control), at most some seconds old. Thread safety: one writer a rank, any
/// number of readers; no locks.
class ProgressBoard {
 public:
  /// places: [ranks] where each is, for reports: "n3", or "n3 (GPU 1, NVIDIA H200)". on_gpus:
  /// collectives are GPUs', too.
  explicit ProgressBoard(std::vector<std::string> places, bool on_gpus = false);

  int ranks() const { return static_cast<int>(places_.size()); }
  const std::string& place(int rank) const { return places_[static_cast<size_t>(rank)]; }
  bool on_gpus() const { return on_gpus_; }

  /// A rank is ready for its first collective.
  void Begin(int rank);
  void Enter(int rank, const core::StepPhase& phase);
  void Leave(int rank);
  /// Takes over what another process reported about a rank.
  void Put(int rank, const RankProgress& progress);

  RankProgress Read(int rank) const;

 private:
  // A sequence lock whose fields are atomics, so that a torn read is seen and tried again.
  struct alignas(64) Slot {
    std::atomic<uint64_t> version{0};  // odd while written
    std::atomic<uint64_t> step{0};
    std::atomic<uint64_t> collectives{0};
    std::atomic<int64_t> since{0};
    std::atomic<int32_t> layer{-1};
    std::atomic<uint8_t> kind{static_cast<uint8_t>(core::StepPhase::Kind::kOther)};
    std::atomic<bool> waiting{false};
    std::atomic<bool> heard{false};
  };

  std::vector<std::string> places_;
  bool on_gpus_;
  std::vector<Slot> slots_;  // [ranks]
};

/// Marks one collective on the board for as long as it lives. board may be null.
class ProgressMark {
 public:
  ProgressMark(ProgressBoard* board, int rank, const core::StepPhase& phase)
      : board_(board), rank_(rank) {
    if (board_ != nullptr) board_->Enter(rank_, phase);
  }
  ~ProgressMark() {
    if (board_ != nullptr) board_->Leave(rank_);
  }
  ProgressMark(const ProgressMark&) = delete;
  ProgressMark& operator=(const ProgressMark&) = delete;

 private:
  ProgressBoard* board_;
  int rank_;
};

}  // namespace tandem::parallel
