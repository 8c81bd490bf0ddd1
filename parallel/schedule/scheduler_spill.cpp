#include <algorithm>
#include <utility>

#include "kv_store/pages/pool_size.h"
#include "parallel/schedule/scheduler.h"

// The part of the scheduler that keeps the pages of preempted sequences in the ranks' host tier.

namespace tandem::parallel {

SpilledSequence Scheduler::Spill(const Running& sequence) {
  const RequestState& state = sequence.state;
  // Pages that are being filled have left the host tier, or are records.
  if (host_.empty() || !state.wants_cached_pages() || sequence.loading != 0) return {};
  int32_t tokens = std::min(sequence.committed, state.token_count() - 1);
  const size_t groups = options_.groups.size();
  const auto wanted = [&](size_t group, int64_t i) {
    return sequence.pages.table(group)[static_cast<size_t>(i)] != core::kNoBlock;
  };
  for (size_t g = 0; g < groups; ++g) {
    int64_t free = host_[g].free();
    int64_t fit = 0;
    const int64_t all = kv_store::BlocksFor(tokens);
    while (fit < all && (!wanted(g, fit) || free-- > 0)) ++fit;
    if (fit == all) continue;
    // A shorter beginning sees what windows have left behind.
    const bool windows = std::any_of(options_.groups.begin(), options_.groups.end(),
                                     [](const auto& group) { return group.leaves_behind(); });
    tokens = windows ? 0 : static_cast<int32_t>(fit * core::kPageTokens);
  }
  if (tokens <= 0) return {};
  SpilledSequence spilled{.tokens = tokens, .host = {}};
  PageSpill spill;
  for (size_t g = 0; g < groups; ++g) {
    auto& host = spilled.host.emplace_back();
    for (int64_t i = 0; i < kv_store::BlocksFor(tokens); ++i) {
      host.push_back(wanted(g, i) ? *host_[g].Allocate() : core::kNoBlock);
      if (host.back() == core::kNoBlock) continue;
      spill.blocks.push_back({.group = static_cast<int32_t>(g),
                              .block = sequence.pages.table(g)[static_cast<size_t>(i)],
                              .host = host.back()});
    }
  }
  // The last blocks are the first to be given to others.
  std::reverse(spill.blocks.begin(), spill.blocks.end());
  ++host_tier_.spilled;
  host_tier_.spilled_bytes += static_cast<uint64_t>(HostBytes(spill.blocks));
  moves_.emplace_back(std::move(spill));
  return spilled;
}

/// Takes the pages that lie behind those that the sequence has, and frees their places. Returns how
/// many tokens they hold; loading: set to the number that reports them.
uint64_t Scheduler::TakeSpilled(WaitingRequest& waiting, SequencePages& pages, FetchId& loading) {
  SpilledSequence spilled = std::exchange(waiting.spilled, {});
  std::vector<FetchBlock> blocks;
  for (int32_t begin = 0; begin < spilled.tokens; begin += core::kPageTokens) {
    FetchBlock& block = blocks.emplace_back();
    block.tokens = std::min(core::kPageTokens, spilled.tokens - begin);
    for (size_t g = 0; g < spilled.host.size(); ++g) {
      if (spilled.host[g][blocks.size() - 1] != core::kNoBlock) block.groups |= 1U << g;
    }
  }
  const size_t count = pages.Restorable(0, blocks);
  const int32_t before = pages.full_blocks() * core::kPageTokens;
  std::vector<PageMove> loads;
  const bool taken =
      count > 0 && pages.Restore(0, 0, std::span(blocks).first(count), waiting.state.tokens, loads);
  if (taken) {
    PageReturn back{.id = next_fetch_++, .blocks = {}};
    for (const PageMove& move : loads) {
      const auto& load = std::get<BlockLoad>(move);
      for (size_t g = 0; g < load.blocks.size(); ++g) {
        if (load.blocks[g] == core::kNoBlock) continue;
        back.blocks.push_back({.group = static_cast<int32_t>(g),
                               .block = load.blocks[g],
                               .host = spilled.host[g][static_cast<size_t>(load.index)]});
      }
    }
    loading = back.id;
    ++host_tier_.returned;
    host_tier_.returned_bytes += static_cast<uint64_t>(HostBytes(back.blocks));
    moves_.emplace_back(std::move(back));
  }
  // Whoever is given these places writes to them after this plan has read them.
  FreeSpilled(spilled);
  return taken ? static_cast<uint64_t>(pages.taken() - before) : 0;
}

void Scheduler::FreeSpilled(SpilledSequence& spilled) {
  for (size_t g = 0; g < spilled.host.size(); ++g) {
    for (const core::BlockId block : spilled.host[g]) {
      if (block != core::kNoBlock) host_[g].Release(block);
    }
  }
  spilled = {};
}

int64_t Scheduler::HostBytes(const std::vector<SpilledBlock>& blocks) const {
  int64_t bytes = 0;
  for (const SpilledBlock& at : blocks) {
    bytes += options_.host_block_bytes[static_cast<size_t>(at.group)];
  }
  return bytes;
}

HostTierStatus Scheduler::host_tier() const {
  HostTierStatus status = host_tier_;
  for (size_t g = 0; g < host_.size(); ++g) {
    status.bytes_limit += host_[g].blocks() * options_.host_block_bytes[g];
    status.bytes += host_[g].used() * options_.host_block_bytes[g];
  }
  return status;
}

}  // namespace tandem::parallel
