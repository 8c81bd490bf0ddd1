#include <algorithm>
#include <utility>

#include "core/base/counted.h"
#include "core/sampling/sampler.h"
#include "kv_store/pages/pool_size.h"
#include "parallel/schedule/scheduler.h"

// The part of the scheduler that says which requests it takes, and takes them from the queue.

namespace tandem::parallel {
namespace {

// So often in a row may a leader stand still before those who wait for it start by themselves.
constexpr int32_t kMostLeaderStalls = 64;

int32_t CommonPrefix(std::span<const int32_t> a, std::span<const int32_t> b) {
  const size_t most = std::min(a.size(), b.size());
  const auto end = a.begin() + static_cast<int64_t>(most);
  return static_cast<int32_t>(std::mismatch(a.begin(), end, b.begin()).first - a.begin());
}

ReuseLimit LimitOf(kv_store::MatchEnd end) {
  switch (end) {
    case kv_store::MatchEnd::kAll:
      return ReuseLimit::kNone;
    case kv_store::MatchEnd::kNothing:
      return ReuseLimit::kNothing;
    case kv_store::MatchEnd::kDiffers:
      return ReuseLimit::kDiffers;
    case kv_store::MatchEnd::kEvicted:
      return ReuseLimit::kEvicted;
    case kv_store::MatchEnd::kNoState:
      return ReuseLimit::kNoState;
  }
  return ReuseLimit::kNothing;
}

}  // namespace

absl::Status Scheduler::Check(const SchedulerOptions& options, const EngineRequest& request) {
  if (request.prompt.empty()) {
    return InvalidArgument("the prompt has no tokens; give at least one");
  }
  if (request.max_tokens < 0) {
    return InvalidArgument("max_tokens is {}, expected 0 or more", request.max_tokens);
  }
  if (request.answered.size() > static_cast<size_t>(request.max_tokens)) {
    return InvalidArgument("{} are answered, and max_tokens is {}",
                           Counted(std::ssize(request.answered), "token"), request.max_tokens);
  }
  if (request.sampling.min_tokens < 0) {
    return InvalidArgument("min_tokens is {}, expected 0 or more", request.sampling.min_tokens);
  }
  if (request.logprobs && (*request.logprobs < 0 || *request.logprobs > kMostLogprobs)) {
    return InvalidArgument("logprobs is {}, expected 0 to {}", *request.logprobs, kMostLogprobs);
  }
  if (request.first_prompt_logprob < 1) {
    return InvalidArgument("first_prompt_logprob is {}, expected 1 or more",
                           request.first_prompt_logprob);
  }
  const auto check_tokens = [&](const std::vector<int32_t>& tokens, const char* what) {
    for (size_t i = 0; i < tokens.size(); ++i) {
      if (tokens[i] >= 0 && tokens[i] < options.vocab) continue;
      return InvalidArgument("{} token {} at position {} is outside the vocabulary (0 to {})", what,
                             tokens[i], i, options.vocab - 1);
    }
    return absl::OkStatus();
  };
  TANDEM_RETURN_IF_ERROR(check_tokens(request.prompt, "prompt"));
  TANDEM_RETURN_IF_ERROR(check_tokens(request.answered, "answered"));
  for (const auto& [token, bias] : request.sampling.logit_bias) {
    if (token < 0 || token >= options.vocab) {
      return InvalidArgument("logit_bias: token {} is outside the vocabulary (0 to {})", token,
                             options.vocab - 1);
    }
  }
  const size_t given = request.prompt.size() + request.answered.size();
  if (given > static_cast<size_t>(options.context)) {
    if (!request.answered.empty()) {
      return OutOfRange("prompt and answer so far have {} tokens, the context holds {} now", given,
                        options.context);
    }
    return OutOfRange("the prompt has {} tokens, the context holds {}; shorten the prompt", given,
                      options.context);
  }
  return absl::OkStatus();
}

void Scheduler::Admit() {
  bool again = true;
  while (again && !queue_.empty()) {
    again = false;
    // With all slots taken, and none by lower priority, there is nobody to look for.
    if (free_slots_.empty() && !CanMakeRoomFor(queue_.highest_priority())) return;
    RequestQueue::Order order = queue_.InOrder(turns_, PromptTokensAhead());
    while (WaitingRequest* waiting = order.Next()) {
      if (StillWaitsForLeader(*waiting) || WaitsForRecords(*waiting)) continue;
      const int32_t priority = waiting->state.request.priority;
      Outcome outcome = Outcome::kNoMemory;
      if (!free_slots_.empty()) outcome = TryAdmit(*waiting);
      if (outcome == Outcome::kWaitsForOthers) continue;
      if (outcome == Outcome::kNoMemory && CanMakeRoomFor(priority)) {
        Preempt(std::prev(running_.end()));
        again = true;
      }
      // The queue has changed, and so has whose turn it is.
      again = again || outcome == Outcome::kAdmitted;
      break;
    }
  }
}

TokensOfClients Scheduler::PromptTokensAhead() const {
  TokensOfClients ahead;
  for (const auto& [key, sequence] : running_) {
    if (!sequence.in_prompt()) continue;
    ahead[sequence.state.request.client] += sequence.given - sequence.positions;
  }
  return ahead;
}

bool Scheduler::CanMakeRoomFor(int32_t priority) const {
  return !running_.empty() && std::prev(running_.end())->second.state.request.priority < priority;
}

Scheduler::Outcome Scheduler::TryAdmit(WaitingRequest& waiting) {
  const RequestState& state = waiting.state;
  // At least one token is computed, so that there is something to sample from.
  const int32_t most = state.wants_cached_pages() ? state.token_count() - 1 : 0;
  SequencePages pages(index_, options_.groups, state.request.tenant, state.tokens, most);
  const Restore& restore = waiting.restore;
  size_t restorable = 0;
  int32_t taken = pages.taken();
  if (restore.state == Restore::State::kReady) {
    restorable = pages.Restorable(restore.first_block, restore.blocks);
  }
  if (restorable > 0) {
    taken = (restore.first_block + static_cast<int32_t>(restorable) - 1) * core::kPageTokens +
            restore.blocks[restorable - 1].tokens;
  }
  if (FindLeader(waiting, taken, most)) {
    pages.Release();
    return Outcome::kWaitsForOthers;
  }
  if (!FitsMemory(state, pages)) {
    pages.Release();
    return Outcome::kNoMemory;
  }
  Start(*queue_.Take(state.id), std::move(pages), restorable);
  return Outcome::kAdmitted;
}

bool Scheduler::StillWaitsForLeader(WaitingRequest& waiting) const {
  if (!waiting.leader) return false;
  if (waiting.leader_step == next_step_ && keys_.contains(*waiting.leader)) return true;
  waiting.leader_step = next_step_;
  const auto key = keys_.find(*waiting.leader);
  if (key != keys_.end()) {
    const Running& leader = running_.at(key->second);
    if (leader.committed < waiting.leader_until) {
      if (leader.loading != 0 || leader.committed != waiting.leader_tokens) {
        waiting.leader_tokens = leader.committed;
        waiting.leader_stalls = 0;
        return true;
      }
      if (++waiting.leader_stalls <= kMostLeaderStalls) return true;
      waiting.gave_up = true;
    }
  }
  waiting.leader.reset();
  return false;
}

bool Scheduler::FindLeader(WaitingRequest& waiting, int32_t taken, int32_t most) const {
  if (most == 0 || waiting.gave_up) return false;
  const RequestState& state = waiting.state;
  for (const auto& [key, other] : running_) {
    if (other.committed >= other.given || !other.pages.shares() ||
        other.state.request.tenant != state.request.tenant ||
        other.state.request.priority < state.request.priority) {
      continue;
    }
    const int32_t common = CommonPrefix(
        state.tokens, std::span(other.state.tokens).first(static_cast<size_t>(other.given)));
    // Where the block is full that holds the end of it, or the prompt ends.
    const int32_t until = std::min(
        other.given, (common + core::kPageTokens - 1) / core::kPageTokens * core::kPageTokens);
    const int32_t later = std::min(common, most);
    // Worth it for a block at least, or if then nothing is left to compute but the last token.
    const bool rest = later == most && later > taken;
    if (other.committed >= until || (!rest && later - taken < core::kPageTokens)) continue;
    waiting.leader = key.second;
    waiting.leader_until = until;
    waiting.leader_tokens = other.committed;
    waiting.leader_stalls = 0;
    waiting.leader_step = next_step_;
    return true;
  }
  return false;
}

bool Scheduler::FitsMemory(const RequestState& state, const SequencePages& pages) const {
  // What fits alone was admitted by Check.
  if (running_.empty()) return true;
  // Sequences grow by a block now and then; some of them soon.
  const int64_t headroom = 1 + static_cast<int64_t>(running_.size()) / 4;
  const auto longest = [](const RequestState& of) {
    return of.prompt_tokens() + std::max(0, of.limit - 1);
  };
  for (size_t g = 0; g < options_.groups.size(); ++g) {
    const auto still_needs = [&](int32_t tokens, const SequencePages& own) {
      const int64_t all =
          kv_store::MostBlocksHeld(options_.groups[g], tokens, options_.prefill_chunk);
      return std::max<int64_t>(0, all - own.held(g));
    };
    int64_t now = still_needs(state.token_count(), pages) + headroom;
    int64_t ever = still_needs(longest(state), pages);
    for (const auto& [key, other] : running_) {
      if (other.in_prompt()) now += still_needs(other.given, other.pages);
      ever += still_needs(longest(other.state), other.pages);
    }
    if (std::min(now, ever) > index_.available(g)) return false;
  }
  return true;
}

void Scheduler::Start(WaitingRequest waiting, SequencePages pages, size_t restorable) {
  FetchId loading = waiting.restore.fetch;
  ReusedFrom from = TakeRestored(waiting, pages, restorable);
  from.host += TakeSpilled(waiting, pages, loading);
  if (from.total() == 0 || !options_.loads_beside) loading = 0;
  pages.Copy(moves_);
  from.device = static_cast<uint64_t>(pages.taken()) - from.total();
  ReuseLimit limit = ReuseLimit::kNotAsked;
  if (waiting.state.wants_cached_pages()) {
    const bool all = pages.taken() == waiting.state.token_count() - 1;
    const bool restored = from.total() > from.device;
    limit = all ? ReuseLimit::kNone
                : waiting.restore.limit.value_or(restored ? ReuseLimit::kDiffers
                                                          : LimitOf(pages.end()));
  }
  Running sequence{.state = std::move(waiting.state),
                   .pages = std::move(pages),
                   .slot = free_slots_.back(),
                   .incarnation = next_incarnation_++,
                   .loading = loading,
                   .drafts = {}};
  free_slots_.pop_back();
  RequestState& state = sequence.state;
  const int32_t taken = sequence.pages.taken();
  sequence.given = state.token_count();
  sequence.first_position = sequence.positions = sequence.committed = taken;
  sequence.served_before = turns_.served(state.request.client);
  sequence.samples = state.answered();
  opening_.push_back({.slot = sequence.slot,
                      .sampling = state.request.sampling,
                      .candidates_per_rank = core::CandidatesPerRank(state.request.sampling,
                                                                     options_.largest_vocab_shard),
                      .first_token_index = static_cast<uint64_t>(state.answered()),
                      .history = {state.tokens.begin(), state.tokens.begin() + taken}});
  const bool again = state.preemptions > 0;
  admitted_.push_back({.id = state.id,
                       .again = again,
                       .prompt_tokens = state.prompt_tokens(),
                       .reused_tokens = taken,
                       .reused_from = from,
                       .reuse_limit = limit});
  const RunningKey key{-state.request.priority, state.id};
  keys_.emplace(state.id, key);
  running_.emplace(key, std::move(sequence));
}

}  // namespace tandem::parallel
