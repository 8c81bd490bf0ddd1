#include "tests/parallel/schedule/fake_ranks.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>

#include "kv_store/records/record.h"
#include "tests/support/random.h"

namespace tandem::testing {
namespace {

uint64_t Chain(uint64_t hash, int32_t token) {
  return SplitMix(hash * 31 + static_cast<uint64_t>(token) + 1).Next();
}

uint64_t ChainOf(uint64_t start, std::span<const int32_t> tokens) {
  for (const int32_t token : tokens) start = Chain(start, token);
  return start;
}

}  // namespace

FakeRanks::FakeRanks(const parallel::SchedulerOptions& options, int64_t tier_bytes)
    : options_(options),
      slots_(options.max_running, options.groups, options.blocks, options.vocab,
             options.host_blocks),
      tier_(kv_store::TierLimits{.bytes = tier_bytes}) {
  for (const int64_t blocks : options.blocks) {
    pages_.emplace_back(static_cast<size_t>(blocks * core::kPageTokens), 0);
  }
  for (const int64_t blocks : options.host_blocks) {
    host_.emplace_back(static_cast<size_t>(blocks * core::kPageTokens), 0);
  }
}

int32_t FakeRanks::NextToken(std::span<const int32_t> history, int32_t vocab) {
  return static_cast<int32_t>(ChainOf(12345, history) % static_cast<uint64_t>(vocab));
}

std::vector<int32_t> FakeRanks::Answer(std::vector<int32_t> prompt, int32_t count, int32_t vocab) {
  uint64_t hash = ChainOf(12345, prompt);
  std::vector<int32_t> answer;
  for (int32_t i = 0; i < count; ++i) {
    answer.push_back(static_cast<int32_t>(hash % static_cast<uint64_t>(vocab)));
    hash = Chain(hash, answer.back());
  }
  return answer;
}

uint64_t& FakeRanks::At(size_t group, core::BlockId block, int64_t position) {
  return pages_[group][static_cast<size_t>(int64_t{block} * core::kPageTokens +
                                           position % core::kPageTokens)];
}

void FakeRanks::CheckSeen(const parallel::SequenceWork& work, uint64_t tenant) {
  const parallel::SlotState& state = slots_.slot(work.slot);
  uint64_t hash = tenant;
  for (int32_t p = 0; p < work.start_position; ++p) {
    hash = Chain(hash, state.history[static_cast<size_t>(p)]);
    for (size_t g = 0; g < options_.groups.size(); ++g) {
      const core::KvLayerGroup& needs = options_.groups[g];
      const int32_t back = work.start_position - p;
      const bool global =
          p < needs.global && (needs.global_reach == 0 || back < needs.global_reach);
      if (needs.window > 0 && back >= needs.window && !global) continue;
      // Of states, the one that the last token before the segment left.
      const int32_t segment_start =
          needs.segment > 0 ? work.start_position / needs.segment * needs.segment : 0;
      if (needs.states ? p != segment_start - 1 : p < segment_start) continue;
      const core::BlockId block = state.tables[g][static_cast<size_t>(p / core::kPageTokens)];
      ASSERT_EQ(At(g, block, p), hash) << "slot " << work.slot << " group " << g << " position "
                                       << p << " of " << work.start_position << ": another's pages";
    }
  }
}

parallel::SequenceResult FakeRanks::Compute(const parallel::SequenceWork& work, uint64_t tenant) {
  parallel::SlotState& state = slots_.slot(work.slot);
  std::vector<int32_t> tokens(state.history.begin(),
                              state.history.begin() + work.start_position + work.known_count());
  tokens.insert(tokens.end(), work.drafts.begin(), work.drafts.end());
  uint64_t hash =
      ChainOf(tenant, std::span(tokens).first(static_cast<size_t>(work.start_position)));
  parallel::SequenceResult result;
  for (int32_t p = work.start_position; p < work.start_position + work.token_count(); ++p) {
    const int32_t token = tokens[static_cast<size_t>(p)];
    hash = Chain(hash, token);
    for (size_t g = 0; g < options_.groups.size(); ++g) {
      const core::KvLayerGroup& needs = options_.groups[g];
      if (needs.states && (p + 1) % needs.segment != 0) continue;
      At(g, state.tables[g][static_cast<size_t>(p / core::kPageTokens)], p) = hash;
    }
    const bool draft = p >= work.start_position + work.known_count();
    if (token == failing_token_ && !draft && !result.failure) {
      result.failure = parallel::NumericFailure{.position = p, .in_logits = false};
    }
  }
  for (int32_t i = 0; i < work.sample_rows(); ++i) {
    ++state.next_token_index;
    if (i > 0 && state.history.back() == failing_token_) {
      result.failure = parallel::NumericFailure{
          .position = static_cast<int64_t>(state.history.size()) - 1, .in_logits = false};
    }
    // As ranks do: a plan that left before this was known goes on with token 0.
    const int32_t next = result.failure ? 0 : NextToken(state.history, options_.vocab);
    state.history.push_back(next);
    if (result.failure) break;
    result.tokens.push_back(next);
    const auto at = static_cast<size_t>(i);
    if (at >= work.drafts.size() || work.drafts[at] != next) break;
    ++right_drafts_;
  }
  return result;
}

void FakeRanks::Save(const parallel::BlockSave& save) {
  ++saved_blocks_;
  std::vector<kv_store::TierRecord> records;
  for (size_t g = 0; g < save.blocks.size(); ++g) {
    if (save.blocks[g] == core::kNoBlock) continue;
    const auto* page = &At(g, save.blocks[g], 0);
    const auto bytes = std::as_bytes(std::span(page, static_cast<size_t>(save.tokens)));
    records.push_back({.key = kv_store::RecordKeyOf({}, {.block = save.hash,
                                                         .tokens = save.tokens,
                                                         .kv_head = 0,
                                                         .group = static_cast<int32_t>(g)}),
                       .block = save.hash,
                       .before = save.before,
                       .tenant = save.tenant,
                       .bytes = std::vector(bytes.begin(), bytes.end())});
  }
  // A tier that is full refuses.
  static_cast<void>(tier_.Put(records));
}

void FakeRanks::Move(const parallel::PageMove& move) {
  if (const auto* copy = std::get_if<parallel::BlockCopy>(&move)) {
    const auto group = static_cast<size_t>(copy->group);
    for (int p = 0; p < core::kPageTokens; ++p) At(group, copy->to, p) = At(group, copy->from, p);
    ++copied_blocks_;
    return;
  }
  const auto swap_pages = [this](const parallel::SpilledBlock& at, bool to_host) {
    const auto group = static_cast<size_t>(at.group);
    const auto page = static_cast<size_t>(at.block) * core::kPageTokens;
    const auto host = static_cast<size_t>(at.host) * core::kPageTokens;
    for (size_t p = 0; p < core::kPageTokens; ++p) {
      if (to_host) {
        host_[group][host + p] = pages_[group][page + p];
      } else {
        pages_[group][page + p] = host_[group][host + p];
      }
    }
  };
  if (const auto* spill = std::get_if<parallel::PageSpill>(&move)) {
    for (const parallel::SpilledBlock& at : spill->blocks) swap_pages(at, true);
    return;
  }
  if (const auto* back = std::get_if<parallel::PageReturn>(&move)) {
    for (const parallel::SpilledBlock& at : back->blocks) swap_pages(at, false);
    return;
  }
  const auto& load = std::get<parallel::BlockLoad>(move);
  ASSERT_TRUE(fetches_.contains(load.fetch)) << "load of fetch " << load.fetch << ", not open";
  const Fetched& fetched = fetches_[load.fetch];
  ASSERT_LT(static_cast<size_t>(load.index), fetched.records.size());
  const auto& records = fetched.records[static_cast<size_t>(load.index)];
  for (size_t g = 0; g < load.blocks.size(); ++g) {
    if (load.blocks[g] == core::kNoBlock) continue;
    ASSERT_FALSE(records[g].empty()) << "layer group " << g << " was not fetched";
    std::memcpy(&At(g, load.blocks[g], 0), records[g].data(), records[g].size());
  }
  ++loaded_blocks_;
}

void FakeRanks::Fetch(const parallel::BlockFetch& fetch) {
  ASSERT_FALSE(fetches_.contains(fetch.id));
  Fetched& fetched = fetches_[fetch.id];
  fetched.blocks = fetch.blocks;
  for (const parallel::FetchBlock& block : fetch.blocks) {
    std::vector<kv_store::SharedBytes> records(options_.groups.size());
    for (size_t g = 0; g < records.size(); ++g) {
      if (((block.groups >> g) & 1U) == 0) continue;
      const auto key = kv_store::RecordKeyOf({}, {.block = block.hash,
                                                  .tokens = block.tokens,
                                                  .kv_head = 0,
                                                  .group = static_cast<int32_t>(g)});
      auto found = tier_.Get(std::span(&key, 1));
      if (!found[0]) return;
      records[g] = std::move(found[0]->bytes);
    }
    fetched.records.push_back(std::move(records));
  }
}

parallel::StepResult FakeRanks::Execute(const parallel::ScheduledStep& step) {
  const parallel::StepPlan& plan = step.plan;
  const absl::Status applied = slots_.Apply(plan);
  EXPECT_TRUE(applied.ok()) << applied;
  for (const parallel::BlockSave& save : plan.saves) Save(save);
  for (const parallel::PageMove& move : plan.moves) Move(move);
  for (const parallel::FetchId id : plan.ended_fetches) {
    EXPECT_EQ(fetches_.erase(id), 1U) << "fetch " << id << " ended and was not open";
  }
  for (const parallel::BlockFetch& fetch : plan.fetches) Fetch(fetch);
  parallel::StepResult result;
  int64_t logits = 0;
  int64_t gathered = 0;
  int64_t scored = 0;
  // All of a step's sequences are computed at once: nobody may write what another one reads.
  for (size_t s = 0; s < plan.sequences.size(); ++s) {
    CheckSeen(plan.sequences[s], tenants_[step.requests[s]]);
  }
  for (size_t s = 0; s < plan.sequences.size(); ++s) {
    const parallel::SequenceWork& work = plan.sequences[s];
    result.sequences.push_back(Compute(work, tenants_[step.requests[s]]));
    const int64_t rows = work.logit_rows() * options_.vocab;
    if (work.gather) gathered += rows;
    if (work.gather || work.score != parallel::ScoredTokens::kNone) logits += rows;
    scored += work.score_rows();
  }
  for (size_t s = 0; s < plan.sequences.size(); ++s) {
    CheckSeen(plan.sequences[s], tenants_[step.requests[s]]);
  }
  EXPECT_LE(logits, options_.most_logits_a_step);
  result.logits.resize(static_cast<size_t>(gathered));
  result.scores.assign(static_cast<size_t>(scored), core::TokenLogprobs());
  return result;
}

}  // namespace tandem::testing
