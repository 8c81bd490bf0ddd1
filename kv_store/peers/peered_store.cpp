#include "kv_store/peers/peered_store.h"

#include "core/base/counted.h"
#include "kv_store/tiers/missing_keys.h"

namespace tandem::kv_store {
namespace {

constexpr size_t kMostUsed = size_t{1} << 16;  // keys; what is more is not told

}  // namespace

PeeredStore::PeeredStore(ListableTier& local, PeerTier& peers, const PeeredStoreOptions& options)
    : options_(options),
      local_(local),
      peers_(peers),
      queue_(options.queue_bytes, [this](const WriteBehindQueue::Batch& batch) {
        absl::Status status = peers_.Put(batch.records);
        std::vector<RecordKey> used;
        {
          const MutexLock lock(used_mutex_);
          used.swap(used_);
        }
        peers_.Use(used);
        return status;
      }) {}

void PeeredStore::CopyLater(std::span<const TierRecord> records) {
  const auto deadline = Clock::now() + options_.patience;
  for (size_t i = 0; i < records.size(); ++i) {
    if (queue_.Push(records[i], deadline)) continue;
    // The first copy is there; Flush tells.
    queue_.Fail(ResourceExhausted("KV: no second copy of {}: {} bytes at most wait for a peer",
                                  Counted(static_cast<int64_t>(records.size() - i), "record"),
                                  options_.queue_bytes));
    return;
  }
}

void PeeredStore::UseLater(std::span<const RecordKey> keys) {
  if (!peers_.keeps_copies() || keys.empty()) return;
  const MutexLock lock(used_mutex_);
  const bool is_first = used_.empty();
  const auto told = keys.first(std::min(keys.size(), kMostUsed - used_.size()));
  used_.insert(used_.end(), told.begin(), told.end());
  if (is_first) queue_.Mark(0);
}

absl::Status PeeredStore::Put(std::span<const TierRecord> records) {
  const ReaderMutexLock erasing(erasing_);
  absl::Status kept = local_.Put(records);
  if (!peers_.keeps_copies()) return kept;
  if (options_.policy != WritePolicy::kThrough) {
    CopyLater(records);
    return kept;
  }
  absl::Status copied = peers_.Put(records);
  return kept.ok() ? copied : kept;
}

void PeeredStore::Keep(std::span<const RecordKey> keys,
                       const std::vector<std::optional<FoundRecord>>& found, uint64_t erasures) {
  std::vector<TierRecord> copies;
  for (size_t k = 0; k < keys.size(); ++k) {
    if (!found[k]) continue;
    copies.push_back(CopyOf(keys[k], *found[k]));
  }
  if (copies.empty()) return;
  const ReaderMutexLock erasing(erasing_);
  // Where there is no room for them here, they stay where they were found.
  if (erasures == erasures_) static_cast<void>(local_.Put(copies));
}

std::vector<std::optional<FoundRecord>> PeeredStore::Get(std::span<const RecordKey> keys) {
  uint64_t erasures = 0;
  {
    const ReaderMutexLock erasing(erasing_);
    erasures = erasures_;
  }
  std::vector<std::optional<FoundRecord>> found = local_.Get(keys);
  if (!peers_.knows_any()) return found;
  std::vector<RecordKey> here;
  for (size_t k = 0; k < keys.size(); ++k) {
    if (found[k]) here.push_back(keys[k]);
  }
  UseLater(here);
  const MissingKeys missing(keys, found);
  if (missing.keys.empty()) return found;
  std::vector<std::optional<FoundRecord>> there = peers_.Get(missing.keys);
  Keep(missing.keys, there, erasures);
  for (size_t i = 0; i < there.size(); ++i) found[missing.places[i]] = std::move(there[i]);
  return found;
}

std::vector<std::optional<TierKind>> PeeredStore::Where(std::span<const RecordKey> keys) {
  std::vector<std::optional<TierKind>> where = local_.Where(keys);
  if (!peers_.knows_any()) return where;
  const MissingKeys missing(keys, where);
  if (missing.keys.empty()) return where;
  const std::vector<bool> there = peers_.Exists(missing.keys);
  for (size_t i = 0; i < there.size(); ++i) {
    if (there[i]) where[missing.places[i]] = TierKind::kRemote;
  }
  return where;
}

void PeeredStore::Use(std::span<const RecordKey> keys) {
  local_.Use(keys);
  UseLater(keys);
}

absl::Status PeeredStore::Drain() {
  const uint64_t left = queue_.Await(Clock::now() + options_.drain);
  if (left == 0) return absl::OkStatus();
  return absl::DeadlineExceededError(
      fmt::format("KV: {} still on their way to another host",
                  Counted(static_cast<int64_t>(left), "record is", "records are")));
}

absl::Status PeeredStore::Flush() {
  absl::Status here = local_.Flush();
  absl::Status copied = Drain();
  absl::Status failed = queue_.TakeFailure();
  if (copied.ok()) copied = std::move(failed);
  const absl::Status there = peers_.Flush();
  if (!here.ok()) return here;
  return copied.ok() ? there : copied;
}

absl::Status PeeredStore::Drop(std::span<const RecordKey> keys) {
  const WriterMutexLock erasing(erasing_);
  ++erasures_;
  return local_.Drop(keys);
}

absl::Status PeeredStore::EraseHere(std::span<const BlockHash> blocks) {
  absl::Status erased;
  {
    const WriterMutexLock erasing(erasing_);
    ++erasures_;
    erased = local_.Erase(blocks);
  }
  // What was put before arrives at the peers, where it is erased next.
  const absl::Status drained = Drain();
  return erased.ok() ? drained : erased;
}

absl::Status PeeredStore::Erase(std::span<const BlockHash> blocks) {
  if (blocks.empty()) return absl::OkStatus();
  absl::Status here = EraseHere(blocks);
  if (!peers_.knows_any()) return here;
  absl::Status there = peers_.Erase(blocks);
  if (here.ok() && there.ok()) {
    here = EraseHere(blocks);
    there = peers_.Erase(blocks);
  }
  return here.ok() ? there : here;
}

TierStats PeeredStore::Stats() {
  TierStats stats = local_.Stats();
  const TierStats there = peers_.Counts();
  stats.hits += there.hits;
  stats.misses -= std::min(stats.misses, there.hits);
  return stats;
}

}  // namespace tandem::kv_store
