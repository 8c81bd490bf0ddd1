#include "kv_store/peers/peered_store.h"

namespace tandem::kv_store {
namespace {

constexpr int64_t kBatchBytes = int64_t{16} << 20;
constexpr size_t kMostUsed = size_t{1} << 16;  // keys; what is more is not told

int64_t BytesOf(const TierRecord& record) { return static_cast<int64_t>(record.bytes.size()); }

}  // namespace

PeeredStore::PeeredStore(Tier& local, PeerTier& peers, const PeeredStoreOptions& options)
    : options_(options), local_(local), peers_(peers), here_(*this) {
  copier_ = std::thread([this] { RunCopier(); });
}

PeeredStore::~PeeredStore() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
    changed_.notify_all();
  }
  copier_.join();  // copies what waits
}

absl::Status PeeredStore::CopyLater(std::span<const TierRecord> records) {
  const auto deadline = Clock::now() + options_.patience;
  std::unique_lock lock(mutex_);
  for (size_t i = 0; i < records.size(); ++i) {
    const int64_t bytes = BytesOf(records[i]);
    const bool room = changed_.wait_until(lock, deadline, [&] {
      return queued_bytes_ == 0 || queued_bytes_ + bytes <= options_.queue_bytes;
    });
    if (!room) {
      if (failed_.ok()) {
        failed_ =
            ResourceExhausted("KV: no second copy of {} records: {} bytes wait for a peer already",
                              records.size() - i, queued_bytes_);
      }
      return absl::OkStatus();  // the first copy is there; Flush tells
    }
    queue_.push_back(records[i]);
    queued_bytes_ += bytes;
    ++queued_;
    changed_.notify_all();
  }
  return absl::OkStatus();
}

void PeeredStore::UseLater(std::span<const RecordKey> keys) {
  if (!peers_.keeps_copies() || keys.empty()) return;
  const std::lock_guard lock(mutex_);
  const size_t room = kMostUsed - std::min(kMostUsed, used_.size());
  const auto told = keys.first(std::min(keys.size(), room));
  used_.insert(used_.end(), told.begin(), told.end());
  changed_.notify_all();
}

void PeeredStore::RunCopier() {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return stop_ || !queue_.empty() || !used_.empty(); });
    if (queue_.empty() && (used_.empty() || stop_)) return;
    std::vector<TierRecord> batch;
    int64_t bytes = 0;
    while (!queue_.empty() && bytes < kBatchBytes) {
      bytes += BytesOf(queue_.front());
      batch.push_back(std::move(queue_.front()));
      queue_.pop_front();
    }
    const std::vector<RecordKey> used = std::exchange(used_, {});
    lock.unlock();
    absl::Status status = peers_.Put(batch);
    peers_.Use(used);
    lock.lock();
    if (failed_.ok()) failed_ = std::move(status);
    queued_bytes_ -= bytes;
    copied_ += batch.size();
    changed_.notify_all();
  }
}

absl::Status PeeredStore::Put(std::span<const TierRecord> records) {
  const std::shared_lock erasing(erasing_);
  absl::Status kept = local_.Put(records);
  if (!peers_.keeps_copies()) return kept;
  absl::Status copied =
      options_.policy == WritePolicy::kThrough ? peers_.Put(records) : CopyLater(records);
  return kept.ok() ? copied : kept;
}

void PeeredStore::Keep(std::span<const RecordKey> keys,
                       const std::vector<std::optional<FoundRecord>>& found, uint64_t erasures) {
  std::vector<TierRecord> copies;
  for (size_t k = 0; k < keys.size(); ++k) {
    if (!found[k]) continue;
    copies.push_back({.key = keys[k],
                      .block = found[k]->block,
                      .before = found[k]->before,
                      .tenant = found[k]->tenant,
                      .bytes = found[k]->bytes});
  }
  if (copies.empty()) return;
  const std::shared_lock erasing(erasing_);
  // Where there is no room for them here, they stay where they were found.
  if (erasures == erasures_) static_cast<void>(local_.Put(copies));
}

std::vector<std::optional<FoundRecord>> PeeredStore::Get(std::span<const RecordKey> keys) {
  uint64_t erasures = 0;
  {
    const std::shared_lock erasing(erasing_);
    erasures = erasures_;
  }
  std::vector<std::optional<FoundRecord>> found = local_.Get(keys);
  if (!peers_.knows_any()) return found;
  std::vector<RecordKey> here;
  std::vector<RecordKey> missing;
  std::vector<size_t> places;
  for (size_t k = 0; k < keys.size(); ++k) {
    if (found[k]) {
      here.push_back(keys[k]);
    } else {
      missing.push_back(keys[k]);
      places.push_back(k);
    }
  }
  UseLater(here);
  if (missing.empty()) return found;
  std::vector<std::optional<FoundRecord>> there = peers_.Get(missing);
  Keep(missing, there, erasures);
  for (size_t i = 0; i < there.size(); ++i) found[places[i]] = std::move(there[i]);
  return found;
}

std::vector<bool> PeeredStore::Exists(std::span<const RecordKey> keys) {
  std::vector<bool> exists;
  exists.reserve(keys.size());
  for (const std::optional<TierKind>& where : Where(keys)) exists.push_back(where.has_value());
  return exists;
}

std::vector<std::optional<TierKind>> PeeredStore::Where(std::span<const RecordKey> keys) {
  std::vector<std::optional<TierKind>> where = local_.Where(keys);
  if (!peers_.knows_any()) return where;
  std::vector<RecordKey> missing;
  std::vector<size_t> places;
  for (size_t k = 0; k < keys.size(); ++k) {
    if (where[k]) continue;
    missing.push_back(keys[k]);
    places.push_back(k);
  }
  if (missing.empty()) return where;
  const std::vector<bool> there = peers_.Exists(missing);
  for (size_t i = 0; i < there.size(); ++i) {
    if (there[i]) where[places[i]] = TierKind::kRemote;
  }
  return where;
}

void PeeredStore::Use(std::span<const RecordKey> keys) {
  local_.Use(keys);
  UseLater(keys);
}

absl::Status PeeredStore::Drain(std::unique_lock<std::mutex>& lock) {
  const uint64_t queued = queued_;
  if (changed_.wait_for(lock, options_.drain, [&] { return copied_ >= queued; })) {
    return absl::OkStatus();
  }
  return absl::DeadlineExceededError(
      fmt::format("KV: {} records are still on their way to another host", queued - copied_));
}

absl::Status PeeredStore::Flush() {
  absl::Status here = local_.Flush();
  absl::Status copied;
  {
    std::unique_lock lock(mutex_);
    copied = Drain(lock);
    absl::Status failed = std::exchange(failed_, absl::OkStatus());
    if (copied.ok()) copied = std::move(failed);
  }
  const absl::Status there = peers_.Flush();
  if (!here.ok()) return here;
  return copied.ok() ? there : copied;
}

absl::Status PeeredStore::EraseHere(std::span<const BlockHash> blocks) {
  absl::Status erased;
  {
    const std::lock_guard erasing(erasing_);
    ++erasures_;
    erased = local_.Erase(blocks);
  }
  // What was put before arrives at the peers, where it is erased next.
  std::unique_lock lock(mutex_);
  const absl::Status drained = Drain(lock);
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
