#include <algorithm>
#include <utility>

#include "kv_store/pages/pool_size.h"
#include "parallel/schedule/scheduler.h"

// The part of the scheduler that brings saved pages back.

namespace tandem::parallel {
namespace {

using State = Restore::State;

// Requests of the queue that are looked for in the tiers at once: enough to keep the tiers busy.
constexpr int32_t kMostLooking = 8;
// So often a request is looked for again when some record was missing.
constexpr int32_t kMostAgain = 2;

uint32_t GroupsSeen(const std::vector<core::KvLayerGroup>& groups, int64_t block,
                    int64_t position) {
  uint32_t seen = 0;
  for (size_t g = 0; g < groups.size(); ++g) {
    if (kv_store::NeedsBlock(groups[g], position, block)) seen |= 1U << g;
  }
  return seen;
}

/// Why no more is restored; `before`: what is known of it from an earlier try.
std::optional<ReuseLimit> LimitOfLack(SavedTokens::Lack lack, std::optional<ReuseLimit> before) {
  if (before) return before;
  switch (lack) {
    case SavedTokens::Lack::kNothing:
      return std::nullopt;
    case SavedTokens::Lack::kState:
      return ReuseLimit::kNoState;
    case SavedTokens::Lack::kRecords:
      return ReuseLimit::kDamaged;
  }
  return std::nullopt;
}

}  // namespace

bool Scheduler::WaitsForRecords(const WaitingRequest& waiting) const {
  const State state = waiting.restore.state;
  return options_.records && state != State::kReady && state != State::kOver;
}

bool Scheduler::has_work() {
  const bool computes = std::any_of(running_.begin(), running_.end(), [](const auto& running) {
    return running.second.loading == 0;
  });
  if (computes || !saves_.empty() || flush_ || !ended_fetches_.empty() || !fetches_.empty()) {
    return true;
  }
  bool any = false;
  queue_.ForEach([&](const WaitingRequest& waiting) {
    const State state = waiting.restore.state;
    const bool undecided = state == State::kUndecided && looking_ < kMostLooking;
    any = any || undecided || !WaitsForRecords(waiting);
  });
  return any;
}

std::vector<RecordProbe> Scheduler::TakeProbes() {
  std::vector<RecordProbe> probes;
  if (!options_.records || queue_.empty()) return probes;
  RequestQueue::Order order = queue_.InOrder(turns_, PromptTokensAhead());
  while (WaitingRequest* waiting = order.Next()) {
    if (looking_ >= kMostLooking) break;
    Restore& restore = waiting->restore;
    if (restore.state != State::kUndecided || waiting->leader) continue;
    if (!BeginProbe(*waiting, probes)) restore.state = State::kOver;
  }
  return probes;
}

bool Scheduler::BeginProbe(WaitingRequest& waiting, std::vector<RecordProbe>& probes) {
  const RequestState& state = waiting.state;
  if (!state.wants_cached_pages()) return false;
  Restore& restore = waiting.restore;
  const int32_t all = state.token_count() - 1;
  const int32_t most = std::min(all, restore.most.value_or(all));
  const kv_store::PrefixKnown known = index_.Known(state.request.tenant, state.tokens, most);
  const int32_t gain = most - known.tokens;
  if (gain < core::kPageTokens) return false;
  if (restore_worth_ && !restore_worth_(gain, std::nullopt)) return false;
  // Who computes it already is nearer than any tier.
  if (FindLeader(waiting, known.tokens, all)) return true;

  const int32_t begin = known.full_blocks * core::kPageTokens;
  const auto tokens = std::span(state.tokens).first(static_cast<size_t>(most));
  restore.first = kv_store::ChainHash(
      known.hash, tokens.subspan(static_cast<size_t>(begin), core::kPageTokens));
  bool behind = false;
  queue_.ForEach([&](const WaitingRequest& other) {
    const bool comes_first = other.restore.state == State::kReady &&
                             other.state.request.priority >= state.request.priority;
    behind = behind ||
             ((other.restore.looking() || comes_first) && other.restore.first == restore.first);
  });
  if (behind) {
    restore.state = State::kBehind;
    return true;
  }
  restore.state = State::kProbing;
  restore.fetch = next_fetch_++;
  restores_.emplace(restore.fetch, state.id);
  ++looking_;
  probes.push_back({.id = restore.fetch,
                    .first_block = known.full_blocks,
                    .before = known.hash,
                    .tokens = {tokens.begin() + begin, tokens.end()}});
  return true;
}

std::optional<BegunFetch> Scheduler::Probed(FetchId probe, SavedTokens saved) {
  const auto found = restores_.find(probe);
  if (found == restores_.end()) return std::nullopt;
  WaitingRequest& waiting = *queue_.Find(found->second);
  Restore& restore = waiting.restore;
  if (restore.state != State::kProbing) return std::nullopt;
  restore.limit = LimitOfLack(saved.lack, restore.limit);
  if (!PlanFetch(waiting, saved, restore)) {
    EndRestore(restore);
    return std::nullopt;
  }
  restore.state = State::kFetching;
  restore.bytes = FetchBytes(restore.blocks);
  fetch_bytes_ += restore.bytes;
  fetches_.push_back({.id = restore.fetch, .blocks = restore.blocks});
  const FetchBlock& last = restore.blocks.back();
  return BegunFetch{
      .id = restore.fetch,
      .tokens = (static_cast<int32_t>(restore.blocks.size()) - 1) * core::kPageTokens + last.tokens,
      .from = saved.from};
}

bool Scheduler::PlanFetch(const WaitingRequest& waiting, SavedTokens saved,
                          Restore& restore) const {
  const RequestState& state = waiting.state;
  // The index may have gained or dropped something while the tier was asked.
  const int32_t most = std::min(saved.tokens, state.token_count() - 1);
  const kv_store::PrefixKnown known = index_.Known(state.request.tenant, state.tokens, most);
  const auto blocks_until = [&](int32_t end) {
    std::vector<FetchBlock> blocks;
    kv_store::BlockHash hash = known.hash;
    for (int32_t i = known.full_blocks; i * core::kPageTokens < end; ++i) {
      const int32_t begin = i * core::kPageTokens;
      const int32_t count = std::min(core::kPageTokens, end - begin);
      hash = kv_store::ChainHash(
          hash,
          std::span(state.tokens).subspan(static_cast<size_t>(begin), static_cast<size_t>(count)));
      blocks.push_back(
          {.hash = hash, .tokens = count, .groups = GroupsSeen(options_.groups, i, end)});
    }
    return blocks;
  };
  int32_t end = most;
  std::vector<FetchBlock> blocks = blocks_until(end);
  while (!blocks.empty() && FetchBytes(blocks) > options_.fetch_bytes - fetch_bytes_) {
    end = (kv_store::BlocksFor(end) - 1) * core::kPageTokens;
    blocks = blocks_until(end);
  }
  const int32_t gain = end - known.tokens;
  if (gain < core::kPageTokens && end < state.token_count() - 1) return false;
  if (blocks.empty() || gain <= 0) return false;
  if (restore_worth_ && !restore_worth_(gain, saved.from)) return false;
  restore.first_block = known.full_blocks;
  restore.blocks = std::move(blocks);
  return true;
}

int64_t Scheduler::FetchBytes(const std::vector<FetchBlock>& blocks) const {
  int64_t bytes = 0;
  for (const FetchBlock& block : blocks) {
    for (size_t g = 0; g < options_.block_bytes.size(); ++g) {
      if (((block.groups >> g) & 1U) != 0) {
        bytes += options_.block_bytes[g] / core::kPageTokens * block.tokens;
      }
    }
  }
  return bytes;
}

void Scheduler::Fetched(FetchId fetch, std::span<const kv_store::TierKind> from, bool late) {
  const auto found = restores_.find(fetch);
  if (found == restores_.end()) return;
  Restore& restore = queue_.Find(found->second)->restore;
  if (restore.state == State::kProbing && late) {
    restore.limit = ReuseLimit::kLate;
    return EndRestore(restore);
  }
  if (restore.state != State::kFetching) return;
  const size_t good = std::min(from.size(), restore.blocks.size());
  const bool all = good == restore.blocks.size();
  if (!all) restore.limit = late ? ReuseLimit::kLate : ReuseLimit::kDamaged;
  if (good == 0 || late) return EndRestore(restore);
  const bool windows = std::any_of(options_.groups.begin(), options_.groups.end(),
                                   [](const auto& group) { return group.leaves_behind(); });
  if (!all && windows && restore.again++ < kMostAgain) {
    // What a shorter beginning needs of the windows was not fetched.
    restore.most = (restore.first_block + static_cast<int32_t>(good)) * core::kPageTokens;
    EndRestore(restore);
    restore.state = State::kUndecided;
    return;
  }
  if (!all && windows) return EndRestore(restore);
  restore.blocks.resize(good);
  restore.from.assign(from.begin(), from.begin() + static_cast<int64_t>(good));
  restore.state = State::kReady;
  --looking_;
  LookAgainBehind();
}

void Scheduler::Loaded(FetchId fetch) {
  for (auto& [key, sequence] : running_) {
    if (sequence.loading == fetch) sequence.loading = 0;
  }
}

void Scheduler::LookAgainBehind() {
  queue_.ForEach([](WaitingRequest& waiting) {
    if (waiting.restore.state == State::kBehind) waiting.restore.state = State::kUndecided;
  });
}

ReusedFrom Scheduler::TakeRestored(WaitingRequest& waiting, SequencePages& pages, size_t count) {
  ReusedFrom from;
  Restore& restore = waiting.restore;
  const auto blocks = std::span<const FetchBlock>(restore.blocks).first(count);
  const size_t first = static_cast<size_t>(pages.full_blocks() - restore.first_block);
  if (count > 0 &&
      pages.Restore(restore.fetch, restore.first_block, blocks, waiting.state.tokens, moves_)) {
    // Of a block that nobody sees nothing was read; it counts with the one behind it.
    kv_store::TierKind place = restore.from[count - 1];
    for (size_t i = count; i-- > first;) {
      const auto tokens = static_cast<uint64_t>(blocks[i].tokens);
      if (blocks[i].groups != 0) place = restore.from[i];
      switch (place) {
        case kv_store::TierKind::kHost:
          from.host += tokens;
          break;
        case kv_store::TierKind::kDisk:
          from.disk += tokens;
          break;
        case kv_store::TierKind::kRemote:
          from.remote += tokens;
          break;
      }
    }
  }
  EndRestore(restore);
  return from;
}

void Scheduler::CloseFetch(Restore& restore) {
  // A fetch that no plan has begun needs none to end it.
  const auto begun =
      std::erase_if(fetches_, [&](const BlockFetch& fetch) { return fetch.id == restore.fetch; });
  if (begun == 0) ended_fetches_.push_back(restore.fetch);
  fetch_bytes_ -= std::exchange(restore.bytes, 0);
}

void Scheduler::EndRestore(Restore& restore) {
  const State state = std::exchange(restore.state, State::kOver);
  if (state == State::kFetching || state == State::kReady) CloseFetch(restore);
  if (state == State::kProbing || state == State::kFetching) --looking_;
  if (restores_.erase(restore.fetch) > 0) LookAgainBehind();
}

}  // namespace tandem::parallel
