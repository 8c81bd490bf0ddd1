#pragma once

#include <cstdint>
#include <deque>
#include <span>
#include <vector>

#include "absl/functional/function_ref.h"
#include "core/base/phase_times.h"
#include "core/base/status.h"
#include "core/model/collective.h"
#include "core/model/model.h"
#include "kv_store/pages/page_pool.h"
#include "parallel/plan/digest.h"
#include "parallel/plan/step_plan.h"
#include "parallel/plan/step_result.h"
#include "parallel/rank/page_traffic.h"
#include "parallel/rank/rank_records.h"
#include "parallel/rank/slot_table.h"
#include "parallel/rank/spilled_pages.h"
#include "parallel/rank/timed_collective.h"

namespace tandem::parallel {

/// What a rank does with a plan, the same on rank 0 and on followers.
///
/// Every collective that the plan implies is called, whatever the data: a numeric failure is a flag
/// in the result. An error means that this rank can go on no more: a collective failed, or the plan
/// did not fit (then no collective was called, on any rank).
/// Thread safety: one thread calls.
class RankRunner {
 public:
  /// What a runner works with; all that is pointed to must outlive it.
  struct Parts {
    core::Model& model;
    const kv_store::PagePool& pool;
    core::Collective& collective;
    SlotTable slots;
    std::vector<core::Range> vocab_shards;  // [ranks] rows of every rank
    PageTraffic& traffic;                   // of the pool
    RankRecords* records = nullptr;         // what saves and fetches; null: a plan has none
    SpilledPages* spilled = nullptr;        // the host tier; null: there is none
    core::PhaseClock* phases = nullptr;     // where to keep the time of each phase, or null
  };
  explicit RankRunner(Parts parts);

  /// plan_hash: StepPlanHash of the plan as it travelled. Begins a step and finishes it.
  absl::StatusOr<StepResult> Execute(const StepPlan& plan, const Digest& plan_hash);

  /// Steps are finished in the order in which they were begun, each before the next but one begins;
  /// before the next one, unless AllowsNext.
  absl::Status Begin(const StepPlan& plan);
  /// Whether the next step may begin before the one that was begun last is finished: the device
  /// computes meanwhile, and samples by itself what the next one needs. Ranks may differ in it.
  bool AllowsNext() const { return begun_.back().kept; }
  /// Waits until the oldest step that was begun, and AllowsNext, is computed, or until() says so.
  absl::Status Await(absl::FunctionRef<bool()> until) { return model_.AwaitKept(until); }
  absl::StatusOr<StepResult> Finish(const StepPlan& plan, const Digest& plan_hash);

 private:
  /// Which rows of the step's logits belong to a sequence of the plan, and which tokens of it.
  struct Place {
    int64_t first_row = 0;
    int64_t first_token = 0;
    uint64_t opening = 0;  // SlotState, of the sequence
  };
  /// A step that was begun.
  struct Begun {
    std::vector<Place> places;  // of the plan's sequences
    bool kept = false;          // what it gives is asked for when the next step may have begun
  };

  /// Before this thread waits for the device otherwise: where a step is begun already, which other
  /// ranks may keep from its end, it is waited for in a way that sees to them.
  absl::Status Settle();
  absl::Status AwaitFilled(std::span<const PoolBlock> blocks);
  absl::Status MovePages(const StepPlan& plan);
  /// Makes the move at the front, and those that are made with it; how many.
  absl::StatusOr<size_t> Move(std::span<const PageMove> moves);
  absl::Status Copy(const BlockCopy& copy);
  /// Before the pass: what it reads is there, and what it writes to is copied first.
  absl::Status FollowPages(const StepPlan& plan);
  /// Returns the places of the plan's sequences.
  absl::StatusOr<std::vector<Place>> Forward(const StepPlan& plan);
  /// Keeps the pass of the step, if the device can. Whether it does.
  absl::StatusOr<bool> Keep(const StepPlan& plan, std::span<const Place> places);
  absl::Status TakeKept(const StepPlan& plan, const Begun& begun, StepResult& result);
  absl::Status GatherLogits(const StepPlan& plan, std::span<const Place> places,
                            StepResult& result);
  absl::Status Sample(const StepPlan& plan, const Begun& begun, StepResult& result);
  /// sampled: [sample_rows() of all sequences].
  absl::Status Score(const StepPlan& plan, std::span<const Place> places,
                     std::span<const core::SampledToken> sampled, StepResult& result);
  /// sampled: as for Score; failed: [tokens of the step].
  void TakeOutcome(const StepPlan& plan, const Begun& begun,
                   std::span<const core::SampledToken> sampled, std::span<const uint8_t> failed,
                   StepResult& result);
  void TakeSamples(const SequenceWork& work, SlotState* state,
                   std::span<const core::SampledToken> sampled, std::span<const uint8_t> failed,
                   SequenceResult& result);
  void AddToDigest(const Digest& plan_hash, StepResult& result);

  core::Model& model_;
  const kv_store::PagePool& pool_;
  TimedCollective collective_;
  SlotTable slots_;
  std::vector<core::Range> vocab_shards_;
  int64_t largest_shard_ = 0;
  PageTraffic& traffic_;
  RankRecords* const records_;
  SpilledPages* const spilled_;
  core::PhaseClock* const phases_;
  std::deque<Begun> begun_;
  RollingDigest digest_;
};

}  // namespace tandem::parallel
