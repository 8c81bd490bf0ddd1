#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

#include "core/model/kv_view.h"
#include "kv_store/pages/block_allocator.h"
#include "kv_store/pages/prefix_index.h"
#include "parallel/engine/engine.h"
#include "parallel/engine/fair_share.h"
#include "parallel/plan/record_probe.h"
#include "parallel/plan/step_plan.h"
#include "parallel/plan/step_result.h"
#include "parallel/schedule/request_queue.h"
#include "parallel/schedule/sequence_pages.h"

namespace tandem::parallel {

/// What the scheduler must know of the model, the pool and the wishes of who started it.
struct SchedulerOptions {
  int32_t vocab = 0;
  int32_t largest_vocab_shard = 0;
  int32_t context = 0;                     // most tokens of prompt and answer together
  std::vector<core::KvLayerGroup> groups;  // [layer groups]
  std::vector<int64_t> blocks;             // [layer groups] blocks of the pool
  int32_t max_running = 64;                // slots
  int32_t prefill_chunk = 512;             // prompt tokens a step, over all sequences
  int64_t most_logits_a_step = 1 << 24;    // floats gathered of prompts' logits
  uint64_t epoch = 0;
  bool records = false;  // all ranks have a tier: blocks are saved and restored
  std::vector<int64_t> block_bytes =
      {};                   // [layer groups] of a block on the largest rank, with records
  int64_t fetch_bytes = 0;  // of all fetches that are open, there
  /// Pages are filled while steps go on (Scheduler::Loaded).
  bool loads_beside = false;
  std::vector<int64_t> host_blocks = {};  // [layer groups] of the host tier; empty: there is none
  std::vector<int64_t> host_block_bytes = {};  // [layer groups] of one, on the largest rank
};

/// A request leaves the queue.
struct Admission {
  RequestId id = 0;
  bool again = false;  // it was running before, and had been preempted
  int32_t prompt_tokens = 0;
  int32_t reused_tokens = 0;    // of what it has so far, whose pages or records were there
  ReusedFrom reused_from = {};  // the same
  ReuseLimit reuse_limit = ReuseLimit::kNothing;
};

/// A step as the scheduler made it: the plan, and whose work each sequence of it is.
struct ScheduledStep {
  StepPlan plan;
  std::vector<RequestId> requests;     // [plan.sequences]
  std::vector<uint64_t> incarnations;  // [plan.sequences] which time that it runs
  std::vector<Admission> admitted;
  std::vector<RequestId> preempted;
  int32_t prompt_tokens = 0;  // of given tokens
  int32_t decoding = 0;       // sequences whose answer goes on

  bool samples() const {
    return std::any_of(plan.sequences.begin(), plan.sequences.end(),
                       [](const SequenceWork& work) { return work.sample; });
  }
};

/// A probe's outcome was worth fetching: the plan that leaves next begins it.
struct BegunFetch {
  FetchId id = 0;
  int32_t tokens = 0;                                   // that need not be computed then
  kv_store::TierKind from = kv_store::TierKind::kHost;  // as rank 0 was told
};

/// A token whose log-probability was asked for.
struct ScoredToken {
  int64_t position = 0;
  core::TokenScore score;
};

/// What a step meant for one request, in the order of EngineSink's calls.
struct RequestEvent {
  RequestId id = 0;
  int64_t first_logit_position = 0;
  std::span<const float> logits;       // [n, vocab] of prompt positions, into the StepResult
  std::vector<ScoredToken> scored;     // by position: of the prompt, then all of `tokens` or none
  int32_t prefilled = 0;               // given tokens computed in this step
  int32_t computed = 0;                // tokens computed in all
  std::vector<int32_t> tokens;         // of the answer
  int32_t drafted = 0;                 // tokens guessed ahead in this step,
  int32_t accepted = 0;                // and those of them that were right
  bool durable = false;                // the request is
  std::optional<FinishReason> finish;  // with status where it is kFailed
  absl::Status status;
};

/// Guesses of how a request's tokens go on, at most `most` of them, for a step that carries so many
/// tokens without them.
using DraftSource = std::function<std::vector<int32_t>(const RequestState& request, int32_t most,
                                                       int32_t step_tokens)>;

/// Decides what runs in each step. Holds no device code, sockets or clocks.
///
/// Every sequence past its prompt computes one token a step, and its drafts. Prompts share
/// `prefill_chunk` tokens a step, or fewer while others decode (SetPromptTokens). They take turns
/// of prefill_chunk tokens, or of what is left of them; of one client the turn that ends first in
/// the terms of FairShare. The order everywhere is: higher priority, then clients that would have
/// had least at the end of the turn (of the whole prompt, where requests wait), then arrival.
///
/// Memory is given as sequences grow. A request is admitted when a slot is free and either there
/// are pages for its prompt, for the rest of the running prompts and a little headroom, or there
/// are pages for all that all of them can ever need. Cached pages count as free. The request starts
/// behind the pages that the prefix index has for it. If a running sequence is computing a
/// beginning that both share, the request waits for it, as long as that sequence advances.
///
/// When no page is free and none is idle, the scheduler preempts a running sequence: of those with
/// the lowest priority the one that came last. Its pages become idle, and it goes to the head of
/// the queue with its answer so far. Where the ranks have a host tier with room for them, they are
/// copied there. Later it takes back the pages that were not evicted, then those of the host tier,
/// and computes the rest again, to the same bits. The oldest sequence of the highest priority gets
/// memory first and is never preempted, so it always advances.
///
/// With records, a full block is saved by the plan after the one that filled it; the tail is saved
/// when the sequence ends. If a waiting request goes on beyond what the index has, the tiers are
/// asked for the rest in two phases while others run: a probe of rank 0's tier, then a fetch that a
/// plan begins on all ranks. When either has ended (Probed, Fetched), the request is admitted, and
/// the plan that opens its slot loads the blocks that all ranks have. Where the ranks' devices can
/// do that meanwhile (SchedulerOptions::loads_beside), others go on until it is done.
///
/// Schedule may be called once more before the last step is committed (the plan ahead). Such a plan
/// names the next token of a sequence by the slot that samples it. What a step computed for a
/// sequence that has ended or was preempted since is dropped.
///
/// Invariants: the blocks in use are those in the tables of running sequences. Plans are executed
/// in order, so a block that one plan frees is written only by later plans.
/// Thread safety: none; the step loop owns it.
class Scheduler {
 public:
  explicit Scheduler(SchedulerOptions options);
  ~Scheduler();

  /// Whether such a request can run here. kInvalidArgument, kOutOfRange as in Engine::Submit.
  static absl::Status Check(const SchedulerOptions& options, const EngineRequest& request);

  /// Puts a checked request into the queue. Ids ascend in order of arrival.
  void Add(RequestId id, EngineRequest request);

  /// Ends a request; true if it was waiting or running. Its slot and blocks are free at once.
  bool Cancel(RequestId id);

  /// How many prompt tokens may be in a step in which so many sequences decode, at least 1; null:
  /// prefill_chunk.
  void SetPromptTokens(std::function<int32_t(int32_t decoding, int32_t prompts)> tokens) {
    prompt_tokens_ = std::move(tokens);
  }
  /// Where drafts come from; null: there are none.
  void SetDraftSource(DraftSource source) { drafts_ = std::move(source); }

  /// Whether so many tokens are better restored than computed, from there; from: nothing as long as
  /// nobody has looked where they are. Null: always.
  using RestoreWorth = std::function<bool(int32_t tokens, std::optional<kv_store::TierKind> from)>;
  void SetRestoreWorth(RestoreWorth worth) { restore_worth_ = std::move(worth); }
  /// What rank 0's tier is to be asked now; each is answered by one Probed.
  std::vector<RecordProbe> TakeProbes();
  /// So many tokens of the request might be restored (FindSaved); 0: none, or it is not known in
  /// time. The fetch that follows, if one does.
  std::optional<BegunFetch> Probed(FetchId probe, SavedTokens saved);
  /// The blocks of a fetch, from the front, that all ranks have, and where they came from. late: it
  /// was not waited for any longer. Unknown ids are ignored: their requests have ended.
  void Fetched(FetchId fetch, std::span<const kv_store::TierKind> from, bool late);
  /// All ranks have filled the pages that a plan loads of a fetch. Where loads_beside, the sequence
  /// has no work before.
  void Loaded(FetchId fetch);
  /// Whether Schedule or TakeProbes may have something now, without news from tiers.
  bool has_work();

  /// The next step, or nothing if no request has work (left) to schedule. With records, a step may
  /// have no sequences.
  std::optional<ScheduledStep> Schedule();

  /// Takes in what the oldest scheduled step gave; ends the sequences that are done. Events point
  /// into `result`.
  std::vector<RequestEvent> Commit(const ScheduledStep& step, const StepResult& result);

  /// The plan that ends the ranks.
  StepPlan StopPlan();

  /// Evicts all cached pages that nobody uses.
  void ClearCache() { index_.Clear(); }

  /// A running request; null for others. Good until the next call of something that is not const.
  const RequestState* FindRunning(RequestId id) const;

  int32_t running() const { return static_cast<int32_t>(running_.size()); }
  int32_t waiting() const { return static_cast<int32_t>(queue_.size()); }
  HostTierStatus host_tier() const;
  int64_t blocks_total() const;
  int32_t context() const { return options_.context; }
  int64_t blocks_used() const;    // by running sequences
  int64_t blocks_cached() const;  // besides
  /// Of the fetches that are open, on the largest rank.
  int64_t fetch_bytes() const { return fetch_bytes_; }
  const SchedulerOptions& options() const { return options_; }

 private:
  struct Running {
    RequestState state;
    SequencePages pages;
    SlotId slot = 0;
    uint64_t incarnation = 0;
    int32_t given = 0;            // tokens known when it was admitted: they come in the plans
    int32_t first_position = 0;   // behind the pages that it took
    double served_before = 0;     // its client, when it was admitted
    int32_t positions = 0;        // scheduled so far
    int32_t committed = 0;        // computed
    int32_t samples = 0;          // answer tokens scheduled so far, in all incarnations
    bool drafting = false;        // drafts are under way: how far it gets is not known
    FetchId loading = 0;          // whose pages are being filled for it; 0: none
    bool opened = false;          // a plan that left has opened its slot
    int32_t wanted = 0;           // tokens of the step in the making
    std::vector<int32_t> drafts;  // of the step in the making

    bool in_prompt() const { return positions < given; }
    bool can_decode() const { return !in_prompt() && !drafting && samples < state.limit; }
  };
  /// By priority, highest first, then by arrival: who is given memory first, and preempted last.
  using RunningKey = std::pair<int32_t, RequestId>;
  using RunningMap = std::map<RunningKey, Running>;

  // scheduler_admission.cpp
  void Admit();
  enum class Outcome { kAdmitted, kWaitsForOthers, kNoMemory };
  Outcome TryAdmit(WaitingRequest& waiting);
  bool StillWaitsForLeader(WaitingRequest& waiting) const;
  bool FindLeader(WaitingRequest& waiting, int32_t taken, int32_t most) const;
  bool FitsMemory(const RequestState& state, const SequencePages& pages) const;
  TokensOfClients PromptTokensAhead() const;
  bool CanMakeRoomFor(int32_t priority) const;
  void Start(WaitingRequest waiting, SequencePages pages, size_t restorable);

  // scheduler_restore.cpp
  bool WaitsForRecords(const WaitingRequest& waiting) const;
  bool BeginProbe(WaitingRequest& waiting, std::vector<RecordProbe>& probes);
  bool PlanFetch(const WaitingRequest& waiting, SavedTokens saved, Restore& restore) const;
  int64_t FetchBytes(const std::vector<FetchBlock>& blocks) const;
  ReusedFrom TakeRestored(WaitingRequest& waiting, SequencePages& pages, size_t count);
  void EndRestore(Restore& restore);
  void CloseFetch(Restore& restore);
  void LookAgainBehind();
  std::vector<BlockSave>* saves() { return options_.records ? &saves_ : nullptr; }

  // scheduler_spill.cpp
  SpilledSequence Spill(const Running& sequence);
  uint64_t TakeSpilled(WaitingRequest& waiting, SequencePages& pages, FetchId& loading);
  void FreeSpilled(SpilledSequence& spilled);
  int64_t HostBytes(const std::vector<SpilledBlock>& blocks) const;

  int32_t SelectDecodes();
  void SelectPrompts(int32_t decoding);
  void SelectDrafts();
  /// From `position` on; a guess that crossed the border would be remembered.
  int32_t TokensLeftOfSegment(int32_t position) const;
  int32_t PromptTokensBeside(int32_t decoding, int32_t prompts) const;
  int32_t PromptTokensAllowed(const Running& sequence, int32_t budget, int64_t logits) const;
  void Place(RunningMap::iterator it, ScheduledStep& step);
  void AddWork(Running& sequence, ScheduledStep& step);
  void ChargePrompt(Running& sequence);
  void Preempt(RunningMap::iterator it);
  void FreeSlot(Running& sequence);

  RunningMap::iterator FindIncarnation(RequestId id, uint64_t incarnation);
  void TakeOutcome(Running& sequence, const SequenceWork& work, const SequenceResult& outcome,
                   RequestEvent& event);
  void AddScored(const RequestState& state, const SequenceWork& work,
                 std::span<const core::TokenScore> scores, RequestEvent& event) const;
  static std::optional<FinishReason> TakeTokens(Running& sequence, std::span<const int32_t> tokens,
                                                RequestEvent& event);
  void End(RunningMap::iterator it, bool keep_pages);

  SchedulerOptions options_;
  kv_store::PrefixIndex index_;
  FairShare turns_;
  RequestQueue queue_;
  RunningMap running_;
  std::unordered_map<RequestId, RunningKey> keys_;  // of running_
  DraftSource drafts_;
  std::function<int32_t(int32_t, int32_t)> prompt_tokens_;
  RestoreWorth restore_worth_;
  std::unordered_map<FetchId, RequestId> restores_;  // that are under way or ready
  int32_t looking_ = 0;                              // restores that probe or fetch
  int64_t fetch_bytes_ = 0;                          // of fetches that are open
  FetchId next_fetch_ = 1;
  // What the next plan brings the ranks besides work.
  std::vector<SlotId> closing_;
  std::vector<OpenedSlot> opening_;
  std::vector<BlockSave> saves_;
  bool flush_ = false;
  std::vector<PageMove> moves_;
  std::vector<FetchId> ended_fetches_;
  std::vector<BlockFetch> fetches_;
  std::vector<Admission> admitted_;
  std::vector<RequestId> preempted_;
  std::vector<SlotId> free_slots_;              // a stack
  std::vector<kv_store::BlockAllocator> host_;  // [layer groups] of the host tier
  HostTierStatus host_tier_;
  uint64_t next_step_ = 1;
  uint64_t next_incarnation_ = 1;
};

}  // namespace tandem::parallel
