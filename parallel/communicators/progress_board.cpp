#include "parallel/communicators/progress_board.h"

#include <utility>

namespace tandem::parallel {
namespace {

using Clock = std::chrono::steady_clock;

}  // namespace

ProgressBoard::ProgressBoard(std::vector<std::string> places, bool on_gpus)
    : places_(std::move(places)), on_gpus_(on_gpus), slots_(places_.size()) {}

void ProgressBoard::Begin(int rank) {
  if (Read(rank).since == Clock::time_point()) Put(rank, {.phase = {}, .since = Clock::now()});
}

void ProgressBoard::Enter(int rank, const core::StepPhase& phase) {
  const uint64_t collectives =
      slots_[static_cast<size_t>(rank)].collectives.load(std::memory_order_relaxed);
  Put(rank, {phase, collectives + 1, true, Clock::now()});
}

void ProgressBoard::Leave(int rank) {
  RankProgress progress = Read(rank);
  progress.waiting = false;
  progress.since = Clock::now();
  Put(rank, progress);
}

void ProgressBoard::Put(int rank, const RankProgress& progress) {
  Slot& slot = slots_[static_cast<size_t>(rank)];
  const uint64_t version = slot.version.load(std::memory_order_relaxed);
  slot.version.store(version + 1, std::memory_order_relaxed);
  // Release stores: a reader that sees one of these fields also sees the odd version before it.
  slot.step.store(progress.phase.step, std::memory_order_release);
  slot.collectives.store(progress.collectives, std::memory_order_release);
  slot.since.store(progress.since.time_since_epoch().count(), std::memory_order_release);
  slot.layer.store(progress.phase.layer, std::memory_order_release);
  slot.kind.store(static_cast<uint8_t>(progress.phase.kind), std::memory_order_release);
  slot.waiting.store(progress.waiting, std::memory_order_release);
  slot.heard.store(progress.heard, std::memory_order_release);
  slot.version.store(version + 2, std::memory_order_release);
}

RankProgress ProgressBoard::Read(int rank) const {
  const Slot& slot = slots_[static_cast<size_t>(rank)];
  for (;;) {
    const uint64_t before = slot.version.load(std::memory_order_acquire);
    RankProgress progress;
    // Acquire loads: the second look at the version cannot come before them.
    progress.phase.step = slot.step.load(std::memory_order_acquire);
    progress.collectives = slot.collectives.load(std::memory_order_acquire);
    progress.since = Clock::time_point(Clock::duration(slot.since.load(std::memory_order_acquire)));
    progress.phase.layer = slot.layer.load(std::memory_order_acquire);
    progress.phase.kind =
        static_cast<core::StepPhase::Kind>(slot.kind.load(std::memory_order_acquire));
    progress.waiting = slot.waiting.load(std::memory_order_acquire);
    progress.heard = slot.heard.load(std::memory_order_acquire);
    const uint64_t after = slot.version.load(std::memory_order_relaxed);
    if (before == after && before % 2 == 0) return progress;
  }
}

}  // namespace tandem::parallel
