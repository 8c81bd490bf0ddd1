#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <unordered_map>
#include <vector>

#include "kv_store/tiers/memory_tier.h"
#include "parallel/rank/slot_table.h"
#include "parallel/schedule/scheduler.h"

namespace tandem::testing {

/// Ranks without a model, which keep in every position of every block what stands there: a hash of
/// the tenant and of all tokens up to it. Copies and writes are made as plans say, and whatever a
/// sequence sees must be its own history: else the test fails. So are saves, fetches and loads,
/// over a tier in memory.
///
/// The token that follows a history is a function of it (NextToken), so a request's answer does not
/// depend on the schedule. Thread safety: none.
class FakeRanks {
 public:
  /// tier_bytes: limit of the tier; 0: none.
  explicit FakeRanks(const parallel::SchedulerOptions& options, int64_t tier_bytes = 0);

  /// Whose pages a request may share.
  void SetTenant(parallel::RequestId id, uint64_t tenant) { tenants_[id] = tenant; }
  /// A token that fails numerically wherever it is computed; -1: none.
  void FailOnToken(int32_t token) { failing_token_ = token; }

  parallel::StepResult Execute(const parallel::ScheduledStep& step);

  static int32_t NextToken(std::span<const int32_t> history, int32_t vocab);
  /// The answer to a prompt.
  static std::vector<int32_t> Answer(std::vector<int32_t> prompt, int32_t count, int32_t vocab);

  kv_store::Tier& tier() { return tier_; }
  /// How many blocks of an open fetch, from the front, there are.
  size_t fetched(parallel::FetchId fetch) const { return fetches_.at(fetch).records.size(); }
  bool fetching(parallel::FetchId fetch) const { return fetches_.contains(fetch); }
  size_t open_fetches() const { return fetches_.size(); }
  int64_t loaded_blocks() const { return loaded_blocks_; }
  int64_t saved_blocks() const { return saved_blocks_; }

  int64_t copied_blocks() const { return copied_blocks_; }
  int64_t right_drafts() const { return right_drafts_; }

 private:
  struct Fetched {
    std::vector<parallel::FetchBlock> blocks;
    std::vector<std::vector<kv_store::SharedBytes>> records;  // [good blocks][layer groups]
  };

  void Save(const parallel::BlockSave& save);
  void Move(const parallel::PageMove& move);
  void Fetch(const parallel::BlockFetch& fetch);
  uint64_t& At(size_t group, core::BlockId block, int64_t position);
  void CheckSeen(const parallel::SequenceWork& work, uint64_t tenant);
  parallel::SequenceResult Compute(const parallel::SequenceWork& work, uint64_t tenant);

  parallel::SchedulerOptions options_;
  parallel::SlotTable slots_;
  std::vector<std::vector<uint64_t>> pages_;  // [layer groups][blocks * 64]
  std::vector<std::vector<uint64_t>> host_;   // the same of the host tier
  kv_store::MemoryTier tier_;
  std::unordered_map<parallel::FetchId, Fetched> fetches_;
  std::unordered_map<parallel::RequestId, uint64_t> tenants_;
  int32_t failing_token_ = -1;
  int64_t copied_blocks_ = 0;
  int64_t loaded_blocks_ = 0;
  int64_t saved_blocks_ = 0;
  int64_t right_drafts_ = 0;
};

}  // namespace tandem::testing
