#include "parallel/scheduler.h"

#include <algorithm>
#include <utility>

#include "core/check.h"
#include "core/sampler.h"
#include "kv_store/pool_size.h"

namespace tandem::parallel {

Scheduler::Scheduler(SchedulerOptions options)
    : options_(std::move(options)), reserved_(options_.groups.size(), 0) {
  for (const int64_t blocks : options_.blocks) pools_.emplace_back(blocks);
  for (SlotId slot = options_.max_running - 1; slot >= 0; --slot) free_slots_.push_back(slot);
}

absl::Status Scheduler::Check(const SchedulerOptions& options, const EngineRequest& request) {
  if (request.prompt.empty()) {
    return InvalidArgument("the prompt has no tokens; give at least one");
  }
  if (request.max_tokens < 0) {
    return InvalidArgument("max_tokens is {}, expected 0 or more", request.max_tokens);
  }
  for (size_t i = 0; i < request.prompt.size(); ++i) {
    if (request.prompt[i] < 0 || request.prompt[i] >= options.vocab) {
      return InvalidArgument("prompt token {} at position {} is outside the vocabulary (0 to {})",
                             request.prompt[i], i, options.vocab - 1);
    }
  }
  for (const auto& [token, bias] : request.sampling.logit_bias) {
    if (token < 0 || token >= options.vocab) {
      return InvalidArgument("logit_bias: token {} is outside the vocabulary (0 to {})", token,
                             options.vocab - 1);
    }
  }
  if (request.prompt.size() > static_cast<size_t>(options.context)) {
    return OutOfRange("the prompt has {} tokens, the context holds {}; shorten the prompt",
                      request.prompt.size(), options.context);
  }
  return absl::OkStatus();
}

void Scheduler::Add(RequestId id, EngineRequest request) {
  waiting_.push_back({id, std::move(request)});
}

bool Scheduler::Cancel(RequestId id) {
  const auto waiting = std::find_if(waiting_.begin(), waiting_.end(),
                                    [id](const Waiting& entry) { return entry.id == id; });
  if (waiting != waiting_.end()) {
    waiting_.erase(waiting);
    return true;
  }
  const auto running = running_.find(id);
  if (running == running_.end()) return false;
  End(running);
  return true;
}

std::optional<ScheduledStep> Scheduler::Schedule() {
  ScheduledStep step;
  Admit(step);
  AddDecodes(step);
  AddPrompts(step);
  if (step.plan.sequences.empty()) {
    TANDEM_CHECK(step.admitted.empty(), "a sequence was admitted without work");
    return std::nullopt;
  }
  step.plan.epoch = options_.epoch;
  step.plan.step = next_step_++;
  // Slots that this plan opens may be among those that it closes; closing comes first.
  step.plan.closed = std::exchange(closing_, {});
  return step;
}

void Scheduler::Admit(ScheduledStep& step) {
  while (!waiting_.empty() && !free_slots_.empty()) {
    Waiting& next = waiting_.front();
    Running sequence;
    const auto prompt = static_cast<int32_t>(next.request.prompt.size());
    sequence.limit = std::min(next.request.max_tokens, options_.context - prompt);
    // The last answer token is given out but not computed with.
    const int64_t positions = int64_t{prompt} + std::max(0, sequence.limit - 1);
    for (size_t g = 0; g < pools_.size(); ++g) {
      const int64_t most =
          kv_store::MostBlocksHeld(options_.groups[g], positions, options_.prefill_chunk);
      if (reserved_[g] + most > pools_[g].blocks()) return;
      sequence.reserved.push_back(most);
    }
    for (size_t g = 0; g < pools_.size(); ++g) reserved_[g] += sequence.reserved[g];
    sequence.slot = free_slots_.back();
    free_slots_.pop_back();
    sequence.tables.resize(pools_.size());
    sequence.released.resize(pools_.size(), 0);
    sequence.request = std::move(next.request);
    step.plan.opened.push_back({.slot = sequence.slot,
                                .sampling = sequence.request.sampling,
                                .candidates_per_rank = core::CandidatesPerRank(
                                    sequence.request.sampling, options_.largest_vocab_shard),
                                .first_token_index = 0,
                                .history = {}});
    step.admitted.push_back(next.id);
    prompt_turns_.push_back(next.id);
    running_.emplace(next.id, std::move(sequence));
    waiting_.pop_front();
  }
}

void Scheduler::AddDecodes(ScheduledStep& step) {
  for (auto& [id, sequence] : running_) {
    if (!sequence.in_prompt() && sequence.samples < sequence.limit) {
      AddWork(id, sequence, 1, step);
    }
  }
}

void Scheduler::AddPrompts(ScheduledStep& step) {
  int32_t budget = options_.prefill_chunk;
  int64_t logits = options_.most_logits_a_step;
  // Each sequence gets one turn at most; one that is not through with its prompt goes to the end.
  for (size_t turns = prompt_turns_.size(); turns > 0 && budget > 0; --turns) {
    const RequestId id = prompt_turns_.front();
    prompt_turns_.pop_front();
    Running& sequence = running_.at(id);
    const int32_t tokens = PromptTokensAllowed(sequence, budget, logits);
    if (tokens > 0) {
      budget -= tokens;
      if (sequence.request.want_prompt_logits) logits -= int64_t{tokens} * options_.vocab;
      AddWork(id, sequence, tokens, step);
    }
    if (sequence.in_prompt()) prompt_turns_.push_back(id);
  }
}

int32_t Scheduler::PromptTokensAllowed(const Running& sequence, int32_t budget,
                                       int64_t logits) const {
  const int32_t tokens = std::min(budget, sequence.prompt_tokens() - sequence.positions);
  if (!sequence.request.want_prompt_logits) return tokens;
  // One row always fits, so that such a prompt moves on in its turn.
  const bool untouched = logits == options_.most_logits_a_step;
  return std::min(tokens,
                  std::max(static_cast<int32_t>(logits / options_.vocab), untouched ? 1 : 0));
}

void Scheduler::AddWork(RequestId id, Running& sequence, int32_t tokens, ScheduledStep& step) {
  SequenceWork work;
  work.slot = sequence.slot;
  work.start_position = sequence.positions;
  if (sequence.in_prompt()) {
    const auto first = sequence.request.prompt.begin() + sequence.positions;
    work.tokens.assign(first, first + tokens);
    if (sequence.request.want_prompt_logits) work.gather = GatherLogits::kAll;
  }
  for (size_t g = 0; g < pools_.size(); ++g) {
    work.table_changes.push_back(GrowTable(sequence, g, tokens));
  }
  sequence.positions += tokens;
  work.sample = !sequence.in_prompt() && sequence.samples < sequence.limit;
  if (work.sample) ++sequence.samples;
  step.plan.sequences.push_back(std::move(work));
  step.requests.push_back(id);
}

std::vector<BlockChange> Scheduler::GrowTable(Running& sequence, size_t group, int32_t tokens) {
  std::vector<BlockChange> changes;
  auto& table = sequence.tables[group];
  const int window = options_.groups[group].window;
  if (window > 0) {
    const auto first_seen = std::max(0, sequence.positions - window + 1);
    const auto first_block = static_cast<size_t>(first_seen / core::kPageTokens);
    for (size_t& i = sequence.released[group]; i < std::min(first_block, table.size()); ++i) {
      pools_[group].Release(table[i]);
      table[i] = core::kNoBlock;
      changes.push_back({.index = static_cast<int32_t>(i), .block = core::kNoBlock});
    }
  }
  const auto wanted =
      static_cast<size_t>(kv_store::BlocksFor(int64_t{sequence.positions} + tokens));
  while (table.size() < wanted) {
    const std::optional<core::BlockId> block = pools_[group].Allocate();
    TANDEM_CHECK(block.has_value(), "the pool is empty although blocks were reserved");
    changes.push_back({.index = static_cast<int32_t>(table.size()), .block = *block});
    table.push_back(*block);
  }
  return changes;
}

std::vector<RequestEvent> Scheduler::Commit(const ScheduledStep& step, const StepResult& result) {
  std::vector<RequestEvent> events;
  std::span<const float> logits = result.logits;
  for (size_t s = 0; s < step.requests.size(); ++s) {
    const SequenceWork& work = step.plan.sequences[s];
    const SequenceResult& outcome = result.sequences[s];
    std::span<const float> own_logits;
    if (work.gather != GatherLogits::kNone) {
      const size_t count =
          static_cast<size_t>(work.logit_rows()) * static_cast<size_t>(options_.vocab);
      own_logits = logits.first(count);
      logits = logits.subspan(count);
    }
    const auto found = running_.find(step.requests[s]);
    if (found == running_.end()) continue;  // ended while this step was under way
    Running& sequence = found->second;
    RequestEvent event{.id = found->first,
                       .first_logit_position = work.start_position,
                       .logits = own_logits,
                       .prefilled = static_cast<int32_t>(work.tokens.size()),
                       .token = {},
                       .finish = {},
                       .status = {}};
    sequence.committed += event.prefilled;
    if (outcome.failure) {
      event.logits = {};
      event.finish = FinishReason::kFailed;
      event.status =
          Internal("numeric failure at position {}: a {} was not finite{}",
                   outcome.failure->position, outcome.failure->in_logits ? "logit" : "sum",
                   outcome.failure->in_logits ? "" : " or out of range");
    } else if (!outcome.tokens.empty()) {
      event.finish = TakeToken(sequence, outcome.tokens.front(), event);
    } else if (sequence.committed == sequence.prompt_tokens() && sequence.limit == 0) {
      event.finish = FinishReason::kLength;
    }
    if (event.finish) End(found);
    events.push_back(std::move(event));
  }
  return events;
}

std::optional<FinishReason> Scheduler::TakeToken(Running& sequence, int32_t token,
                                                 RequestEvent& event) const {
  const auto& stops = sequence.request.stop_tokens;
  if (std::find(stops.begin(), stops.end(), token) != stops.end()) return FinishReason::kStop;
  event.token = token;
  if (++sequence.answered == sequence.limit) return FinishReason::kLength;
  return std::nullopt;
}

void Scheduler::End(RunningMap::iterator sequence) {
  const RequestId id = sequence->first;
  Running& ended = sequence->second;
  for (size_t g = 0; g < pools_.size(); ++g) {
    for (const core::BlockId block : ended.tables[g]) {
      if (block != core::kNoBlock) pools_[g].Release(block);
    }
    reserved_[g] -= ended.reserved[g];
  }
  closing_.push_back(ended.slot);
  free_slots_.push_back(ended.slot);
  std::erase(prompt_turns_, id);
  running_.erase(sequence);
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
  for (const auto& pool : pools_) total += pool.blocks();
  return total;
}

int64_t Scheduler::blocks_used() const {
  int64_t used = 0;
  for (const auto& pool : pools_) used += pool.used();
  return used;
}

}  // namespace tandem::parallel
