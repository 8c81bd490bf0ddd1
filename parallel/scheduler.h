#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <span>
#include <vector>

#include "core/kv_view.h"
#include "kv_store/block_allocator.h"
#include "parallel/engine.h"
#include "parallel/rank_runner.h"
#include "parallel/step_plan.h"

namespace tandem::parallel {

/// What the scheduler must know of the model, the pool and the wishes of who started it.
struct SchedulerOptions {
  int32_t vocab = 0;
  int32_t largest_vocab_shard = 0;
  int32_t context = 0;                     // most tokens of prompt and answer together
  std::vector<core::KvLayerGroup> groups;  // [layer groups]
  std::vector<int64_t> blocks;             // [layer groups] blocks of the pool
  int32_t max_running = 16;                // slots
  int32_t prefill_chunk = 512;             // prompt tokens a step, over all sequences
  int64_t most_logits_a_step = 1 << 24;    // floats gathered for want_prompt_logits
  uint64_t epoch = 0;
};

/// A step as the scheduler made it: the plan, and whose work each sequence of it is.
struct ScheduledStep {
  StepPlan plan;
  std::vector<RequestId> requests;  // [plan.sequences]
  std::vector<RequestId> admitted;  // left the queue with this step
};

/// What a step meant for one request, in the order of EngineSink's calls.
struct RequestEvent {
  RequestId id = 0;
  int64_t first_logit_position = 0;
  std::span<const float> logits;       // [n, vocab] of prompt positions, into the StepResult
  int32_t prefilled = 0;               // prompt tokens computed in this step
  std::optional<int32_t> token;        // an answer token
  std::optional<FinishReason> finish;  // with status where it is kFailed
  absl::Status status;
};

/// Decides what runs in each step. Holds no device code, sockets or clocks.
///
/// Policy: every sequence that is past its prompt gets one token a step; prompts share
/// `prefill_chunk` tokens a step, taking turns; the queue is first come, first served, and a
/// request leaves it when a slot is free and the pool has the most blocks that it can ever hold, so
/// a running sequence never waits for memory.
///
/// Schedule may be called once more before the commit of the step it gave last (the plan ahead):
/// the next token of a sequence is then named, not known. What a step computed for a sequence that
/// has ended meanwhile is dropped.
///
/// Invariants: blocks in use = blocks in the tables of running sequences; the sum of reservations
/// of running sequences is at most the pool. Thread safety: none; the step loop owns it.
class Scheduler {
 public:
  explicit Scheduler(SchedulerOptions options);

  /// Whether such a request can run here. kInvalidArgument, kOutOfRange as in Engine::Submit.
  static absl::Status Check(const SchedulerOptions& options, const EngineRequest& request);

  /// Puts a checked request at the end of the queue. Ids are not used twice.
  void Add(RequestId id, EngineRequest request);

  /// Ends a request; true if it was waiting or running. Its slot and blocks are free at once.
  bool Cancel(RequestId id);

  /// The next step, or nothing if no request has work (left) to schedule.
  std::optional<ScheduledStep> Schedule();

  /// Takes in what the oldest scheduled step gave; ends the sequences that are done. Events point
  /// into `result`.
  std::vector<RequestEvent> Commit(const ScheduledStep& step, const StepResult& result);

  /// The plan that ends the ranks.
  StepPlan StopPlan();

  int32_t running() const { return static_cast<int32_t>(running_.size()); }
  int32_t waiting() const { return static_cast<int32_t>(waiting_.size()); }
  int64_t blocks_total() const;
  int64_t blocks_used() const;
  const SchedulerOptions& options() const { return options_; }

 private:
  struct Waiting {
    RequestId id;
    EngineRequest request;
  };
  struct Running {
    EngineRequest request;
    SlotId slot = 0;
    int32_t limit = 0;                               // answer tokens that fit
    int32_t positions = 0;                           // scheduled so far
    int32_t committed = 0;                           // prompt tokens computed
    int32_t samples = 0;                             // scheduled so far
    int32_t answered = 0;                            // answer tokens given out
    std::vector<int64_t> reserved;                   // [layer groups]
    std::vector<std::vector<core::BlockId>> tables;  // [layer groups]
    std::vector<size_t> released;  // [layer groups] entries the window left behind

    int32_t prompt_tokens() const { return static_cast<int32_t>(request.prompt.size()); }
    bool in_prompt() const { return positions < prompt_tokens(); }
  };
  using RunningMap = std::map<RequestId, Running>;

  void Admit(ScheduledStep& step);
  void AddDecodes(ScheduledStep& step);
  void AddPrompts(ScheduledStep& step);
  void AddWork(RequestId id, Running& sequence, int32_t tokens, ScheduledStep& step);
  std::vector<BlockChange> GrowTable(Running& sequence, size_t group, int32_t tokens);
  int32_t PromptTokensAllowed(const Running& sequence, int32_t budget, int64_t logits) const;
  std::optional<FinishReason> TakeToken(Running& sequence, int32_t token,
                                        RequestEvent& event) const;
  void End(RunningMap::iterator sequence);

  SchedulerOptions options_;
  std::vector<kv_store::BlockAllocator> pools_;  // [layer groups]
  std::vector<int64_t> reserved_;                // [layer groups] sum over running_
  std::deque<Waiting> waiting_;
  RunningMap running_;                  // by id, so in order of arrival
  std::deque<RequestId> prompt_turns_;  // running sequences within their prompt, next first
  std::vector<SlotId> free_slots_;      // a stack
  std::vector<SlotId> closing_;         // ended since the last plan
  uint64_t next_step_ = 1;
};

}  // namespace tandem::parallel
