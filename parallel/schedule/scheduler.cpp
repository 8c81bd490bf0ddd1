#include "parallel/schedule/scheduler.h"

#include <algorithm>
#include <tuple>
#include <utility>

#include "core/base/check.h"

namespace tandem::parallel {
namespace {

// What computing a token of an answer counts beside one of a prompt: it reads all weights for
// itself. Source: Sheng et al. 2024.
constexpr int64_t kAnswerTokenCharge = 2;

}  // namespace

Scheduler::Scheduler(SchedulerOptions options)
    : options_(std::move(options)), index_(options_.groups, options_.blocks) {
  for (const int64_t blocks : options_.host_blocks) host_.emplace_back(blocks);
  for (SlotId slot = options_.max_running - 1; slot >= 0; --slot) free_slots_.push_back(slot);
}

Scheduler::~Scheduler() = default;

void Scheduler::Add(RequestId id, EngineRequest request) {
  WaitingRequest waiting;
  RequestState& state = waiting.state;
  state.id = id;
  state.tokens = request.prompt;
  state.limit = std::min(request.max_tokens, options_.context - state.token_count());
  state.tokens.insert(state.tokens.end(), request.answered.begin(), request.answered.end());
  state.request = std::move(request);
  turns_.Came(state.request.client);
  queue_.Add(std::move(waiting));
}

bool Scheduler::Cancel(RequestId id) {
  if (auto waiting = queue_.Take(id)) {
    EndRestore(waiting->restore);
    FreeSpilled(waiting->spilled);
    turns_.Left(waiting->state.request.client);
    return true;
  }
  const auto key = keys_.find(id);
  if (key == keys_.end()) return false;
  End(running_.find(key->second), true);
  return true;
}

std::optional<ScheduledStep> Scheduler::Schedule() {
  ScheduledStep step;
  Admit();
  size_t running = 0;
  do {
    running = running_.size();
    step.decoding = SelectDecodes();
    SelectPrompts(step.decoding);
    SelectDrafts();
    // The first are given memory first, so who is preempted for it has no work in the plan yet.
    for (auto it = running_.begin(); it != running_.end();) {
      const RunningKey key = it->first;
      if (it->second.wanted > 0) Place(it, step);
      it = running_.upper_bound(key);
    }
    // If those who had their turn all had to make room, it is the turn of others.
  } while (step.plan.sequences.empty() && running_.size() < running);
  const bool pages =
      !saves_.empty() || flush_ || !moves_.empty() || !ended_fetches_.empty() || !fetches_.empty();
  if (step.plan.sequences.empty() && !pages) return std::nullopt;
  step.admitted = std::exchange(admitted_, {});
  step.preempted = std::exchange(preempted_, {});
  step.plan.epoch = options_.epoch;
  step.plan.step = next_step_++;
  // Slots that this plan opens may be among those that it closes; closing comes first.
  step.plan.closed = std::exchange(closing_, {});
  step.plan.opened = std::exchange(opening_, {});
  step.plan.saves = std::exchange(saves_, {});
  step.plan.flush = std::exchange(flush_, false);
  step.plan.moves = std::exchange(moves_, {});
  step.plan.ended_fetches = std::exchange(ended_fetches_, {});
  step.plan.fetches = std::exchange(fetches_, {});
  for (const OpenedSlot& opened : step.plan.opened) {
    for (auto& [key, sequence] : running_) {
      if (sequence.slot == opened.slot) sequence.opened = true;
    }
  }
  return step;
}

int32_t Scheduler::SelectDecodes() {
  int32_t decoding = 0;
  for (auto& [key, sequence] : running_) {
    sequence.wanted = 0;
    sequence.drafts.clear();
    if (!sequence.can_decode()) continue;
    sequence.wanted = 1;
    ++decoding;
  }
  return decoding;
}

int32_t Scheduler::TokensLeftOfSegment(int32_t position) const {
  int32_t left = options_.context;
  for (const core::KvLayerGroup& group : options_.groups) {
    if (group.segment > 0) left = std::min(left, group.segment - position % group.segment);
  }
  return left;
}

void Scheduler::SelectDrafts() {
  if (!drafts_) return;
  int32_t tokens = 0;
  for (const auto& [key, sequence] : running_) tokens += sequence.wanted;
  for (auto& [key, sequence] : running_) {
    const RequestState& state = sequence.state;
    // Only of what is known can be guessed how it goes on.
    if (sequence.wanted == 0 || sequence.in_prompt() || !state.request.speculate) continue;
    if (sequence.samples != state.answered()) continue;
    int32_t most = std::min(state.limit - sequence.samples, options_.prefill_chunk) - 1;
    if (state.request.logprobs) {
      // They are scored, so they share the room for logits.
      const int64_t rows =
          options_.most_logits_a_step / options_.vocab / static_cast<int64_t>(running_.size());
      most = static_cast<int32_t>(std::min<int64_t>(most, rows - 1));
    }
    most = std::min(most, TokensLeftOfSegment(sequence.positions) - 1);
    if (most <= 0) continue;
    sequence.drafts = drafts_(state, most, tokens);
    TANDEM_CHECK(static_cast<int32_t>(sequence.drafts.size()) <= most, "more drafts than asked");
    tokens += static_cast<int32_t>(sequence.drafts.size());
  }
}

int32_t Scheduler::PromptTokensBeside(int32_t decoding, int32_t prompts) const {
  if (decoding == 0 || !prompt_tokens_) return options_.prefill_chunk;
  return std::clamp(prompt_tokens_(decoding, prompts), 1, options_.prefill_chunk);
}

void Scheduler::SelectPrompts(int32_t decoding) {
  struct Turn {
    int32_t priority = 0;  // negative: the highest first
    uint64_t client = 0;
    double ends_at = 0;  // first among the turns of its client, then among all
    RequestId id = 0;
    int32_t left = 0;  // tokens
    Running* sequence = nullptr;
  };
  std::vector<Turn> prompts;
  for (auto& [key, sequence] : running_) {
    if (!sequence.in_prompt() || sequence.loading != 0) continue;
    const int32_t had = sequence.positions - sequence.first_position;
    const int32_t left = std::min(options_.prefill_chunk - had % options_.prefill_chunk,
                                  sequence.given - sequence.positions);
    prompts.push_back({.priority = key.first,
                       .client = sequence.state.request.client,
                       .ends_at = sequence.served_before + had + left,
                       .id = key.second,
                       .left = left,
                       .sequence = &sequence});
  }
  std::sort(prompts.begin(), prompts.end(), [](const Turn& one, const Turn& other) {
    return std::tie(one.priority, one.client, one.ends_at, one.id) <
           std::tie(other.priority, other.client, other.ends_at, other.id);
  });
  const Turn* before = nullptr;
  for (Turn& turn : prompts) {
    const bool goes_on =
        before != nullptr && before->priority == turn.priority && before->client == turn.client;
    turn.ends_at = (goes_on ? before->ends_at : turns_.served(turn.client)) + turn.left;
    before = &turn;
  }
  std::sort(prompts.begin(), prompts.end(), [](const Turn& one, const Turn& other) {
    return std::tie(one.priority, one.ends_at, one.id) <
           std::tie(other.priority, other.ends_at, other.id);
  });
  int32_t budget = PromptTokensBeside(decoding, static_cast<int32_t>(prompts.size()));
  int64_t logits = options_.most_logits_a_step;
  for (const Turn& turn : prompts) {
    if (budget == 0) break;
    Running& sequence = *turn.sequence;
    sequence.wanted = PromptTokensAllowed(sequence, budget, logits);
    budget -= sequence.wanted;
    if (sequence.state.wants_row(sequence.positions)) {
      logits -= int64_t{sequence.wanted} * options_.vocab;
    }
  }
}

int32_t Scheduler::PromptTokensAllowed(const Running& sequence, int32_t budget,
                                       int64_t logits) const {
  const int32_t tokens = std::min(budget, sequence.given - sequence.positions);
  const RequestState& state = sequence.state;
  if (!state.wants_prompt_rows() || sequence.positions >= state.prompt_tokens()) {
    return tokens;
  }
  // After a preemption, logits that were delivered are not gathered again.
  if (sequence.positions < state.next_row()) {
    return std::min(tokens, state.next_row() - sequence.positions);
  }
  // One row always fits, so that such a prompt moves on in its turn.
  const bool untouched = logits == options_.most_logits_a_step;
  const auto rows = std::max(static_cast<int32_t>(logits / options_.vocab), untouched ? 1 : 0);
  return std::min({tokens, rows, state.prompt_tokens() - sequence.positions});
}

void Scheduler::Place(RunningMap::iterator it, ScheduledStep& step) {
  Running& sequence = it->second;
  const auto grow = [&] {
    return sequence.pages.Grow(
        sequence.positions,
        sequence.positions + sequence.wanted + static_cast<int32_t>(sequence.drafts.size()));
  };
  while (!grow()) {
    const auto last = std::prev(running_.end());
    if (!sequence.drafts.empty()) {
      sequence.drafts.clear();
      continue;
    }
    TANDEM_CHECK(running_.size() > 1, "a sequence that was admitted does not fit alone");
    const bool itself = last == it;
    Preempt(last);
    if (itself) return;
  }
  AddWork(sequence, step);
}

void Scheduler::AddWork(Running& sequence, ScheduledStep& step) {
  const RequestState& state = sequence.state;
  SequenceWork work;
  work.slot = sequence.slot;
  work.start_position = sequence.positions;
  if (sequence.in_prompt()) {
    const auto first = state.tokens.begin() + sequence.positions;
    work.tokens.assign(first, first + sequence.wanted);
    step.prompt_tokens += sequence.wanted;
    ChargePrompt(sequence);
    if (state.wants_row(sequence.positions)) {
      work.gather = state.request.want_prompt_logits;
      if (state.request.prompt_logprobs) work.score = ScoredTokens::kAll;
    }
    const auto behind = static_cast<size_t>(sequence.positions) + work.tokens.size();
    if (work.score == ScoredTokens::kAll && behind < state.tokens.size()) {
      work.next_token = state.tokens[behind];
    }
  }
  work.table_changes = sequence.pages.TakeChanges();
  work.drafts = std::move(sequence.drafts);
  sequence.drafts.clear();
  sequence.positions += sequence.wanted;
  work.sample = !sequence.in_prompt() && sequence.samples < state.limit;
  if (work.sample && state.request.logprobs && work.score == ScoredTokens::kNone) {
    work.score = ScoredTokens::kSampled;
  }
  if (work.score != ScoredTokens::kNone) work.top = state.request.logprobs.value_or(0);
  sequence.samples += work.sample_rows();
  if (!work.drafts.empty()) {
    sequence.drafting = true;
    sequence.positions += static_cast<int32_t>(work.drafts.size());
  }
  step.plan.sequences.push_back(std::move(work));
  step.requests.push_back(state.id);
  step.incarnations.push_back(sequence.incarnation);
}

void Scheduler::ChargePrompt(Running& sequence) {
  RequestState& state = sequence.state;
  // What is computed again after a preemption, or was answered before it, is not charged again.
  const int32_t end = std::min(sequence.positions + sequence.wanted, state.prompt_tokens());
  const int32_t begin = std::max(sequence.positions, state.charged);
  if (begin >= end) return;
  turns_.Charge(state.request.client, end - begin);
  state.charged = end;
}

void Scheduler::FreeSlot(Running& sequence) {
  if (sequence.opened) {
    closing_.push_back(sequence.slot);
  } else {
    std::erase_if(opening_, [&](const OpenedSlot& slot) { return slot.slot == sequence.slot; });
  }
  free_slots_.push_back(sequence.slot);
}

void Scheduler::Preempt(RunningMap::iterator it) {
  Running& sequence = it->second;
  sequence.pages.AddTail(sequence.state.tokens, sequence.committed, saves());
  WaitingRequest waiting;
  waiting.spilled = Spill(sequence);
  // What is in host memory here is nearer than any tier.
  if (waiting.spilled.tokens > 0) waiting.restore.state = Restore::State::kOver;
  sequence.pages.Release();
  FreeSlot(sequence);
  waiting.state = std::move(sequence.state);
  ++waiting.state.preemptions;
  preempted_.push_back(waiting.state.id);
  keys_.erase(waiting.state.id);
  running_.erase(it);
  queue_.Add(std::move(waiting));
}

void Scheduler::End(RunningMap::iterator it, bool keep_pages) {
  Running& sequence = it->second;
  if (keep_pages) {
    sequence.pages.AddTail(sequence.state.tokens, sequence.committed, saves());
    if (options_.records) {
      sequence.pages.SaveTail(sequence.state.tokens, sequence.committed, saves_);
      flush_ = flush_ || sequence.state.request.durable;
    }
  }
  if (keep_pages) sequence.pages.KeepBorder();
  sequence.pages.Release();
  FreeSlot(sequence);
  turns_.Left(sequence.state.request.client);
  keys_.erase(sequence.state.id);
  running_.erase(it);
}

Scheduler::RunningMap::iterator Scheduler::FindIncarnation(RequestId id, uint64_t incarnation) {
  const auto key = keys_.find(id);
  if (key == keys_.end()) return running_.end();
  const auto it = running_.find(key->second);
  return it->second.incarnation == incarnation ? it : running_.end();
}

const RequestState* Scheduler::FindRunning(RequestId id) const {
  const auto key = keys_.find(id);
  return key == keys_.end() ? nullptr : &running_.at(key->second).state;
}

std::vector<RequestEvent> Scheduler::Commit(const ScheduledStep& step, const StepResult& result) {
  std::vector<RequestEvent> events;
  std::span<const float> logits = result.logits;
  std::span<const core::TokenScore> scores = result.scores;
  for (size_t s = 0; s < step.requests.size(); ++s) {
    const SequenceWork& work = step.plan.sequences[s];
    std::span<const float> own_logits;
    const auto own_scores = scores.first(static_cast<size_t>(work.score_rows()));
    scores = scores.subspan(own_scores.size());
    if (work.gather) {
      const size_t count =
          static_cast<size_t>(work.logit_rows()) * static_cast<size_t>(options_.vocab);
      own_logits = logits.first(count);
      logits = logits.subspan(count);
    }
    // It may have ended, or been preempted, while this step was under way.
    const auto it = FindIncarnation(step.requests[s], step.incarnations[s]);
    if (it == running_.end()) continue;
    const RequestState& state = it->second.state;
    RequestEvent event{.id = step.requests[s],
                       .first_logit_position = work.start_position,
                       .logits = own_logits,
                       .scored = {},
                       .prefilled = static_cast<int32_t>(work.tokens.size()),
                       .computed = work.token_count(),
                       .tokens = {},
                       .drafted = static_cast<int32_t>(work.drafts.size()),
                       .accepted = 0,
                       .durable = state.request.durable,
                       .finish = {},
                       .status = {}};
    TakeOutcome(it->second, work, result.sequences[s], event);
    AddScored(state, work, own_scores, event);
    if (event.finish) End(it, *event.finish != FinishReason::kFailed);
    events.push_back(std::move(event));
  }
  return events;
}

void Scheduler::TakeOutcome(Running& sequence, const SequenceWork& work,
                            const SequenceResult& outcome, RequestEvent& event) {
  RequestState& state = sequence.state;
  // A guess was computed with if it was right, and part of the answer if that went on so far.
  event.accepted = std::max<int32_t>(static_cast<int32_t>(outcome.tokens.size()) - 1, 0);
  event.finish = TakeTokens(sequence, outcome.tokens, event);
  turns_.Charge(state.request.client,
                kAnswerTokenCharge * static_cast<int64_t>(event.tokens.size()));
  if (outcome.failure && !event.finish) {
    event.logits = {};
    event.finish = FinishReason::kFailed;
    event.status = Internal("numeric failure at position {}: a {} was not finite{}",
                            outcome.failure->position, outcome.failure->in_logits ? "logit" : "sum",
                            outcome.failure->in_logits ? "" : " or out of range");
    return;
  }
  sequence.committed =
      std::min(work.start_position + work.known_count() + event.accepted, state.token_count());
  if (!work.drafts.empty()) {
    sequence.drafting = false;
    sequence.positions = sequence.committed;
    sequence.samples = state.answered();
  }
  if (work.gather || work.score == ScoredTokens::kAll) {
    state.logits_given = work.start_position + event.prefilled;
  }
  if (sequence.committed == sequence.given) {
    // The end of a prompt, for others of the same prompt; what follows is written behind it.
    sequence.pages.AddTail(state.tokens, sequence.committed, saves());
    sequence.pages.KeepBorder();
    if (state.answered() >= state.limit && !event.finish) event.finish = FinishReason::kLength;
  } else {
    sequence.pages.AddFull(state.tokens, sequence.committed, saves());
  }
}

void Scheduler::AddScored(const RequestState& state, const SequenceWork& work,
                          std::span<const core::TokenScore> scores, RequestEvent& event) const {
  const int64_t first = int64_t{work.start_position} + 1;  // behind the first of the tokens
  if (work.score == ScoredTokens::kAll && event.finish != FinishReason::kFailed) {
    const int64_t end = std::min(first + std::ssize(work.tokens), std::ssize(state.request.prompt));
    const int64_t wanted = std::max<int64_t>(first, state.request.first_prompt_logprob);
    for (int64_t position = wanted; position < end; ++position) {
      event.scored.push_back({position, scores[static_cast<size_t>(position - first)]});
    }
  }
  if (!state.request.logprobs) return;
  const auto first_sampled = static_cast<size_t>(work.score_rows() - work.sample_rows());
  int64_t position = int64_t{work.start_position} + work.known_count();
  for (size_t i = 0; i < event.tokens.size(); ++i, ++position) {
    event.scored.push_back({position, scores[first_sampled + i]});
  }
}

std::optional<FinishReason> Scheduler::TakeTokens(Running& sequence,
                                                  std::span<const int32_t> tokens,
                                                  RequestEvent& event) {
  RequestState& state = sequence.state;
  const auto& stops = state.request.stop_tokens;
  for (const int32_t token : tokens) {
    if (std::find(stops.begin(), stops.end(), token) != stops.end()) return FinishReason::kStop;
    event.tokens.push_back(token);
    state.tokens.push_back(token);
    if (state.answered() == state.limit) return FinishReason::kLength;
  }
  return std::nullopt;
}

StepPlan Scheduler::StopPlan() {
  StepPlan plan;
  plan.epoch = options_.epoch;
  plan.step = next_step_++;
  plan.stop = true;
  return plan;
}

int64_t Scheduler::blocks_total() const {
  int64_t total = 0;
  for (const int64_t blocks : options_.blocks) total += blocks;
  return total;
}

int64_t Scheduler::blocks_used() const {
  int64_t used = 0;
  for (size_t g = 0; g < index_.group_count(); ++g) used += index_.used(g);
  return used;
}

int64_t Scheduler::blocks_cached() const {
  int64_t cached = 0;
  for (size_t g = 0; g < index_.group_count(); ++g) cached += index_.idle(g);
  return cached;
}

}  // namespace tandem::parallel
