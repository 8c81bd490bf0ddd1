#include "kv_store/tiers/tiered_store.h"

#include <utility>

#include "kv_store/tiers/merge_lists.h"
#include "kv_store/tiers/missing_keys.h"

namespace tandem::kv_store {
namespace {

constexpr int64_t kBatchBytes = int64_t{16} << 20;

}  // namespace

std::optional<WritePolicy> ParseWritePolicy(std::string_view text) {
  for (const WritePolicy policy :
       {WritePolicy::kThrough, WritePolicy::kBack, WritePolicy::kOnEvict}) {
    if (text == WritePolicyName(policy)) return policy;
  }
  return std::nullopt;
}

std::string_view WritePolicyName(WritePolicy policy) {
  switch (policy) {
    case WritePolicy::kThrough:
      return "through";
    case WritePolicy::kBack:
      return "back";
    case WritePolicy::kOnEvict:
      return "on-evict";
  }
  return "back";
}

TieredStore::TieredStore(const TieredStoreOptions& options, std::vector<Behind> behind)
    : options_(options),
      behind_(std::move(behind)),
      host_(options.host, options.policy == WritePolicy::kOnEvict
                              ? [this](std::vector<TierRecord> evicted) { WriteLater(evicted); }
                              : MemoryTier::OnEvict()),
      queue_(options.queue_bytes,
             [this](const WriteBehindQueue::Batch& batch) { return PutBehind(batch.records); }) {}

TieredStore::~TieredStore() {
  queue_.Stop();
  if (options_.policy != WritePolicy::kOnEvict || behind_.empty()) return;
  for (;;) {
    const std::vector<TierRecord> rest = host_.TakeOut(kBatchBytes);
    if (rest.empty()) return;
    static_cast<void>(PutBehind(rest));
  }
}

absl::Status TieredStore::PutBehind(std::span<const TierRecord> records) {
  absl::Status first;
  for (const Behind& behind : behind_) {
    if (absl::Status status = behind.tier->Put(records); first.ok()) first = std::move(status);
  }
  return first;
}

void TieredStore::WriteLater(std::span<const TierRecord> records) {
  if (behind_.empty()) return;
  for (const TierRecord& record : records) {
    if (!queue_.Push(record)) queue_.Fail(PutBehind(std::span(&record, 1)));
  }
}

absl::Status TieredStore::Put(std::span<const TierRecord> records) {
  const ReaderMutexLock erasing(erasing_);
  absl::Status kept = host_.Put(records);
  if (behind_.empty()) return kept;
  switch (options_.policy) {
    case WritePolicy::kThrough:
      return PutBehind(records);
    case WritePolicy::kBack:
      WriteLater(records);
      return absl::OkStatus();
    case WritePolicy::kOnEvict:
      // What host memory has no room for goes on at once.
      if (!kept.ok()) WriteLater(records);
      return absl::OkStatus();
  }
  return kept;
}

std::vector<std::optional<FoundRecord>> TieredStore::Get(std::span<const RecordKey> keys) {
  const ReaderMutexLock erasing(erasing_);
  std::vector<std::optional<FoundRecord>> found = host_.Get(keys);
  std::vector<RecordKey> in_host;
  for (size_t i = 0; i < keys.size(); ++i) {
    if (!found[i]) {
      if (const auto waiting = queue_.Find(keys[i])) found[i] = FoundIn(TierKind::kHost, *waiting);
    }
    if (found[i]) in_host.push_back(keys[i]);
  }
  for (size_t t = 0; t < behind_.size(); ++t) {
    behind_[t].tier->Use(in_host);
    const MissingKeys missing(keys, found);
    if (missing.keys.empty()) continue;
    std::vector<std::optional<FoundRecord>> here = behind_[t].tier->Get(missing.keys);
    std::vector<TierRecord> copies;
    for (size_t k = 0; k < here.size(); ++k) {
      if (!here[k]) continue;
      copies.push_back(CopyOf(missing.keys[k], *here[k]));
      found[missing.places[k]] = std::move(here[k]);
    }
    if (copies.empty()) continue;
    // Where there is no room for them nearby, they stay where they were found.
    static_cast<void>(host_.Put(copies));
    for (size_t nearer = 0; nearer < t; ++nearer) {
      static_cast<void>(behind_[nearer].tier->Put(copies));
    }
  }
  const size_t missing = MissingKeys(keys, found).keys.size();
  hits_ += keys.size() - missing;
  misses_ += missing;
  return found;
}

std::vector<std::optional<TierKind>> TieredStore::Where(std::span<const RecordKey> keys) {
  const ReaderMutexLock erasing(erasing_);
  std::vector<std::optional<TierKind>> where = host_.Where(keys);
  for (size_t i = 0; i < keys.size(); ++i) {
    if (!where[i] && queue_.Find(keys[i])) where[i] = TierKind::kHost;
  }
  for (const Behind& behind : behind_) {
    const MissingKeys missing(keys, where);
    if (missing.keys.empty()) break;
    const std::vector<bool> here = behind.tier->Exists(missing.keys);
    for (size_t k = 0; k < here.size(); ++k) {
      if (here[k]) where[missing.places[k]] = behind.kind;
    }
  }
  return where;
}

void TieredStore::Use(std::span<const RecordKey> keys) {
  host_.Use(keys);
  for (const Behind& behind : behind_) behind.tier->Use(keys);
}

absl::Status TieredStore::Flush() {
  queue_.Await();
  absl::Status first = queue_.TakeFailure();
  for (const Behind& behind : behind_) {
    if (absl::Status status = behind.tier->Flush(); first.ok()) first = std::move(status);
  }
  return first;
}

absl::Status TieredStore::Erase(std::span<const BlockHash> blocks) {
  if (blocks.empty()) return absl::OkStatus();
  const WriterMutexLock erasing(erasing_);
  queue_.Await();  // what is on its way arrives first, so that it is erased where it arrives
  absl::Status first = host_.Erase(blocks);
  for (const Behind& behind : behind_) {
    if (absl::Status status = behind.tier->Erase(blocks); first.ok()) first = std::move(status);
  }
  return first;
}

absl::Status TieredStore::Drop(std::span<const RecordKey> keys) {
  if (keys.empty()) return absl::OkStatus();
  const WriterMutexLock erasing(erasing_);
  queue_.Await();
  absl::Status first = host_.Drop(keys);
  for (const Behind& behind : behind_) {
    if (absl::Status status = behind.tier->Drop(keys); first.ok()) first = std::move(status);
  }
  return first;
}

TierStats TieredStore::Stats() {
  TierStats most = host_.Stats();
  uint64_t dropped = most.dropped;
  for (const Behind& behind : behind_) {
    const TierStats stats = behind.tier->Stats();
    dropped += stats.dropped;
    if (stats.bytes >= most.bytes) most = stats;
  }
  most.dropped = dropped;
  most.hits = hits_;
  most.misses = misses_;
  return most;
}

std::vector<std::pair<TierKind, TierStats>> TieredStore::StatsByTier() {
  std::vector<std::pair<TierKind, TierStats>> stats = {{TierKind::kHost, host_.Stats()}};
  for (const Behind& behind : behind_) stats.emplace_back(behind.kind, behind.tier->Stats());
  return stats;
}

absl::StatusOr<std::vector<ListedBlock>> TieredStore::List(const std::optional<BlockHash>& after,
                                                           size_t most) {
  std::vector<std::vector<ListedBlock>> lists;
  TANDEM_ASSIGN_OR_RETURN(lists.emplace_back(), host_.List(after, most));
  for (const Behind& behind : behind_) {
    TANDEM_ASSIGN_OR_RETURN(lists.emplace_back(), behind.tier->List(after, most));
  }
  return MergeLists(std::move(lists), most);
}

std::vector<PeekedRecord> TieredStore::Peek(TierKind tier, std::span<const RecordKey> keys) {
  if (tier == TierKind::kHost) return host_.Peek(tier, keys);
  for (const Behind& behind : behind_) {
    if (behind.kind == tier) return behind.tier->Peek(tier, keys);
  }
  return std::vector<PeekedRecord>(keys.size());
}

}  // namespace tandem::kv_store
