#include "kv_store/tiers/disk_tier.h"

#include <sodium.h>
#include <sys/statvfs.h>

#include <algorithm>
#include <utility>

namespace tandem::kv_store {
namespace {

// A batch is written when it has so many bytes.
constexpr size_t kBatchBytes = size_t{8} << 20;
constexpr size_t kEntriesBytes = 512;  // of a record in the book and its block's, about
constexpr std::chrono::milliseconds kCollectorInterval{500};
// A database that is damaged again so soon after it was opened again is begun anew.
constexpr std::chrono::seconds kRepairHolds{60};

using Clock = std::chrono::steady_clock;

/// What a batch takes that begins with these records.
size_t RoomFor(std::span<const TierRecord> records) {
  size_t room = 0;
  for (const TierRecord& record : records) {
    if (room >= kBatchBytes) break;
    room += record.bytes.size() + kEntriesBytes;
  }
  return room;
}

}  // namespace

struct DiskTier::Change {
  explicit Change(RecordDatabase& database, size_t room = 0) : batch(database, room) {}

  RecordDatabase::Batch batch;
  std::vector<std::pair<RecordKey, BlockHash>> added;
  std::vector<BlockIndex::Removed> removed;
};

absl::StatusOr<std::unique_ptr<DiskTier>> DiskTier::Open(const DiskTierOptions& options) {
  std::unique_ptr<DiskTier> tier(new DiskTier(options));
  TANDEM_RETURN_IF_ERROR(tier->OpenDatabase());
  tier->collector_ = std::thread([raw = tier.get()] { raw->RunCollector(); });
  return tier;
}

DiskTier::DiskTier(const DiskTierOptions& options) : options_(options), book_(options.limits) {}

DiskTier::~DiskTier() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
    changed_.notify_all();
  }
  if (collector_.joinable()) collector_.join();
  if (database_ == nullptr) return;
  // Whoever wanted to know has flushed already.
  static_cast<void>(WriteLastUses());
  static_cast<void>(Flush());
}

absl::Status DiskTier::OpenDatabase() {
  TANDEM_ASSIGN_OR_RETURN(database_,
                          RecordDatabase::Open({.directory = options_.directory,
                                                .memtable_bytes = options_.memtable_bytes,
                                                .write_deadline = options_.write_deadline,
                                                .keeps_damaged = options_.keeps_damaged}));
  const std::lock_guard lock(mutex_);
  book_ = BlockIndex(options_.limits);
  secrets_.clear();
  used_.clear();
  to_delete_.clear();
  TANDEM_RETURN_IF_ERROR(database_->ForEachRecord(
      [this](const RecordDatabase::Block& block, const RecordKey& key, int64_t bytes) {
        book_.Restore(key, block.block, block.before, block.tenant, bytes, block.last_use);
        secrets_[block.block] = block.secret;
      }));
  to_delete_ = book_.Shrink();
  for (const BlockIndex::Removed& removed : to_delete_) secrets_.erase(removed.block);
  damaged_ = false;
  return absl::OkStatus();
}

bool DiskTier::DiskIsFull() const {
  struct statvfs disk {};
  if (statvfs(options_.directory.c_str(), &disk) != 0) return false;
  return static_cast<int64_t>(disk.f_bavail) * static_cast<int64_t>(disk.f_frsize) <
         options_.reserve_bytes;
}

absl::Status DiskTier::Noted(absl::Status status) {
  if (absl::IsDataLoss(status)) {
    const std::lock_guard lock(mutex_);
    damaged_ = true;
    changed_.notify_all();
  }
  return status;
}

absl::Status DiskTier::Closed() const {
  return Unavailable("KV store on disk, {}: it was damaged and cannot be opened again yet",
                     options_.directory);
}

void DiskTier::DeleteInBatch(const BlockIndex::Removed& removed, Change& change) {
  for (const RecordKey& key : removed.keys) change.batch.DeleteRecord(removed.block, key);
  if (!secrets_.contains(removed.block)) change.batch.DeleteBlock(removed.block);
  secrets_in_files_ = true;
  change.removed.push_back(removed);
}

absl::Status DiskTier::Write(Change& change) {
  absl::Status status = Noted(database_->Write(change.batch));
  const std::lock_guard lock(mutex_);
  if (status.ok()) {
    if (!change.added.empty() || !change.removed.empty()) ++changes_;
    return status;
  }
  for (const auto& [key, block] : change.added) {
    book_.DropRecord(key);
    if (!book_.LastUse(block)) secrets_.erase(block);
  }
  to_delete_.insert(to_delete_.end(), change.removed.begin(), change.removed.end());
  return status;
}

absl::Status DiskTier::Put(std::span<const TierRecord> records) {
  if (records.empty()) return absl::OkStatus();
  const std::lock_guard writing(writing_);
  const std::shared_lock opened(opened_);
  if (database_ == nullptr) return Closed();
  const bool full = DiskIsFull();
  absl::Status status;
  uint64_t refused = 0;
  for (size_t next = 0; next < records.size();) {
    Change change(*database_, RoomFor(records.subspan(next)));
    {
      const std::lock_guard lock(mutex_);
      for (const BlockIndex::Removed& removed : std::exchange(to_delete_, {})) {
        DeleteInBatch(removed, change);
      }
    }
    for (; next < records.size() && change.batch.bytes() < kBatchBytes; ++next) {
      const TierRecord& record = records[next];
      BlockSecret secret{};
      {
        const std::lock_guard lock(mutex_);
        if (book_.Use(record.key)) {
          used_.insert(record.block);
          continue;
        }
        std::vector<BlockIndex::Removed> evicted;
        const bool added = !full && book_.Add(record, evicted);
        for (const BlockIndex::Removed& removed : evicted) {
          secrets_.erase(removed.block);
          counts_.evicted += removed.keys.size();
          DeleteInBatch(removed, change);
        }
        if (!added) {
          ++refused;
          continue;
        }
        const auto [place, is_new] = secrets_.try_emplace(record.block);
        if (is_new) {
          randombytes_buf(place->second.data(), place->second.size());
          change.batch.PutBlock({.block = record.block,
                                 .before = record.before,
                                 .tenant = record.tenant,
                                 .secret = place->second});
          change.batch.PutLastUse(record.block, book_.clock());
        }
        secret = place->second;
        change.added.emplace_back(record.key, record.block);
      }
      change.batch.PutRecord(record, secret);
    }
    const size_t added = change.added.size();
    if (absl::Status written = Write(change); !written.ok()) {
      status = std::move(written);
      refused += added;
    }
  }
  const std::lock_guard lock(mutex_);
  counts_.refused += refused;
  if (!status.ok() || refused == 0) return status;
  if (full) {
    return ResourceExhausted(
        "KV store on disk, {}: less than {} bytes are free on its file system; make room there",
        options_.directory, options_.reserve_bytes);
  }
  return ResourceExhausted(
      "KV store on disk, {}: {} of {} records found no room in {} bytes ({} of a tenant); give it "
      "more",
      options_.directory, refused, records.size(), options_.limits.bytes,
      options_.limits.tenant_bytes);
}

DiskTier::ReadEnd DiskTier::ReadOnce(const RecordKey& key, bool is_use, FoundRecord& found) {
  if (database_ == nullptr) return ReadEnd::kMissing;
  BlockSecret secret{};
  {
    const std::lock_guard lock(mutex_);
    const auto place = book_.Find(key);
    if (!place) return ReadEnd::kMissing;
    found.from = TierKind::kDisk;
    found.block = place->block;
    found.before = place->before;
    found.tenant = place->tenant;
    secret = secrets_.at(place->block);
    if (is_use) {
      book_.Use(key);
      used_.insert(place->block);
    }
  }
  absl::StatusOr<std::vector<std::byte>> bytes = database_->Read(key, secret);
  const std::lock_guard lock(mutex_);
  // It may have gone meanwhile, and come back under another secret.
  const auto still = secrets_.find(found.block);
  if (!book_.Has(key) || still == secrets_.end() || still->second != secret) {
    return ReadEnd::kMissing;
  }
  if (!bytes.ok()) return ReadEnd::kFailed;
  found.bytes = std::move(*bytes);
  return ReadEnd::kFound;
}

DiskTier::ReadEnd DiskTier::ReadSettled(const RecordKey& key, bool is_use, FoundRecord& found,
                                        const std::function<void()>& when_damaged) {
  {
    const std::shared_lock opened(opened_);
    const ReadEnd end = ReadOnce(key, is_use, found);
    if (end != ReadEnd::kFailed) return end;
  }
  // Either it is in the book and about to be written, or it is damaged.
  const std::lock_guard writing(writing_);
  const std::shared_lock opened(opened_);
  const ReadEnd end = ReadOnce(key, is_use, found);
  if (end == ReadEnd::kFailed && when_damaged != nullptr) when_damaged();
  return end;
}

std::optional<FoundRecord> DiskTier::Read(const RecordKey& key, bool is_use) {
  FoundRecord found;
  const ReadEnd end = ReadSettled(key, is_use, found, [&] {
    const std::lock_guard lock(mutex_);
    book_.DropRecord(key);
    if (!book_.LastUse(found.block)) secrets_.erase(found.block);
    to_delete_.push_back({.block = found.block, .keys = {key}});
    ++counts_.dropped;
  });
  if (is_use) {
    const std::lock_guard lock(mutex_);
    ++(end == ReadEnd::kFound ? counts_.hits : counts_.misses);
  }
  if (end != ReadEnd::kFound) return std::nullopt;
  return found;
}

std::vector<std::optional<FoundRecord>> DiskTier::Get(std::span<const RecordKey> keys) {
  std::vector<std::optional<FoundRecord>> found(keys.size());
  for (size_t i = 0; i < keys.size(); ++i) found[i] = Read(keys[i], /*is_use=*/true);
  return found;
}

std::vector<bool> DiskTier::Exists(std::span<const RecordKey> keys) {
  std::vector<bool> exists(keys.size());
  const std::lock_guard lock(mutex_);
  for (size_t i = 0; i < keys.size(); ++i) exists[i] = book_.Has(keys[i]);
  return exists;
}

absl::Status DiskTier::WriteLastUses() {
  const std::lock_guard writing(writing_);
  const std::shared_lock opened(opened_);
  if (database_ == nullptr) return Closed();
  Change change(*database_);
  {
    const std::lock_guard lock(mutex_);
    if (used_.empty()) return absl::OkStatus();
    for (const BlockHash& block : std::exchange(used_, {})) {
      if (const auto last_use = book_.LastUse(block)) change.batch.PutLastUse(block, *last_use);
    }
    ++changes_;
  }
  return Write(change);
}

absl::Status DiskTier::Flush() {
  const std::lock_guard flushing(flushing_);
  {
    const std::lock_guard lock(mutex_);
    if (changes_ == flushed_changes_) return absl::OkStatus();
  }
  static_cast<void>(WriteLastUses());  // worth having, not worth failing for
  uint64_t changes = 0;
  {
    const std::lock_guard lock(mutex_);
    changes = changes_;
  }
  const std::shared_lock opened(opened_);
  if (database_ == nullptr) return Closed();
  TANDEM_RETURN_IF_ERROR(Noted(database_->Flush()));
  flushed_changes_ = changes;
  return absl::OkStatus();
}

void DiskTier::Use(std::span<const RecordKey> keys) {
  const std::lock_guard lock(mutex_);
  for (const RecordKey& key : keys) {
    if (book_.Use(key)) used_.insert(book_.Find(key)->block);
  }
}

absl::Status DiskTier::Erase(std::span<const BlockHash> blocks) {
  if (blocks.empty()) return absl::OkStatus();
  {
    const std::lock_guard writing(writing_);
    const std::shared_lock opened(opened_);
    if (database_ == nullptr) return Closed();
    Change change(*database_);
    {
      const std::lock_guard lock(mutex_);
      std::vector<BlockIndex::Removed> all = std::exchange(to_delete_, {});
      for (const BlockHash& block : blocks) {
        for (BlockIndex::Removed& removed : book_.DropBlock(block)) {
          secrets_.erase(removed.block);
          all.push_back(std::move(removed));
        }
      }
      for (const BlockIndex::Removed& removed : all) DeleteInBatch(removed, change);
      // Of a block that made room before, the secret may still stand in a file.
      if (!secrets_in_files_) return absl::OkStatus();
      secrets_in_files_ = false;
    }
    if (absl::Status status = Write(change); !status.ok()) {
      const std::lock_guard lock(mutex_);
      secrets_in_files_ = true;
      return status;
    }
  }
  const std::shared_lock opened(opened_);
  if (database_ == nullptr) return Closed();
  absl::Status status = Noted(database_->EraseDeletedBlocks());
  if (!status.ok()) {
    const std::lock_guard lock(mutex_);
    secrets_in_files_ = true;
  }
  return status;
}

TierStats DiskTier::Stats() {
  const std::lock_guard lock(mutex_);
  TierStats stats = counts_;
  stats.records = book_.records();
  stats.blocks = book_.blocks();
  stats.bytes = book_.bytes();
  stats.bytes_limit = book_.limits().bytes;
  return stats;
}

absl::StatusOr<std::vector<ListedBlock>> DiskTier::List(const std::optional<BlockHash>& after,
                                                        size_t most) {
  const std::lock_guard lock(mutex_);
  return book_.List(after, most, TierKind::kDisk);
}

std::vector<PeekedRecord> DiskTier::Peek(TierKind tier, std::span<const RecordKey> keys) {
  std::vector<PeekedRecord> peeked(keys.size());
  if (tier != TierKind::kDisk) return peeked;
  for (size_t i = 0; i < keys.size(); ++i) {
    FoundRecord found;
    const ReadEnd end = ReadSettled(keys[i], /*is_use=*/false, found, nullptr);
    if (end == ReadEnd::kMissing) continue;
    peeked[i].state =
        end == ReadEnd::kFound ? PeekedRecord::State::kThere : PeekedRecord::State::kUnreadable;
    peeked[i].bytes = std::move(found.bytes);
  }
  return peeked;
}

int64_t DiskTier::BytesOnDisk() {
  const std::shared_lock opened(opened_);
  return database_ == nullptr ? 0 : database_->BytesOnDisk();
}

std::string DiskTier::began_anew() {
  const std::shared_lock opened(opened_);
  return database_ == nullptr ? std::string() : database_->began_anew();
}

int64_t DiskTier::GarbageTolerated() const {
  return std::max(options_.least_garbage_bytes, options_.limits.bytes / 10);
}

void DiskTier::RunCollector() {
  uint64_t seen = 0;
  std::optional<Clock::time_point> repaired;
  for (;;) {
    {
      std::unique_lock lock(mutex_);
      changed_.wait_for(lock, kCollectorInterval, [&] { return stop_.load(); });
      if (stop_) return;
      if (!damaged_ && changes_ == seen) continue;
      seen = changes_;
      if (damaged_) {
        lock.unlock();
        const bool again = repaired && Clock::now() < *repaired + kRepairHolds;
        repaired = Clock::now();
        Repair(again);
        continue;
      }
    }
    CollectGarbage();
  }
}

void DiskTier::CollectGarbage() {
  const std::shared_lock opened(opened_);
  if (database_ == nullptr) return;
  const auto garbage = [this] {
    const int64_t on_disk = database_->BytesOnDisk();
    const std::lock_guard lock(mutex_);
    return std::max<int64_t>(0, on_disk - book_.bytes());
  };
  const int64_t found = garbage();
  garbage_left_ = std::min(garbage_left_, found);
  const int64_t tolerated = GarbageTolerated();
  if (found <= garbage_left_ + tolerated && database_->BlobFiles() <= options_.most_files) return;
  static_cast<void>(
      Noted(database_->Collect({.garbage_bytes = tolerated / 2,
                                .files = options_.most_files,
                                .rewritten_bytes = std::max(options_.limits.bytes / 8, tolerated)},
                               stop_)));
  // What could not be got is not tried again before there is more of it.
  garbage_left_ = std::max<int64_t>(0, garbage() - tolerated);
}

void DiskTier::Repair(bool again) {
  std::vector<RecordKey> keys;
  {
    const std::lock_guard writing(writing_);
    const std::lock_guard opened(opened_);
    database_.reset();
    if (again) static_cast<void>(RecordDatabase::Destroy(options_.directory));
    if (!OpenDatabase().ok()) {
      // Tried again when the collector wakes next.
      database_.reset();
      const std::lock_guard lock(mutex_);
      book_ = BlockIndex(options_.limits);
      damaged_ = true;
      return;
    }
    const std::lock_guard lock(mutex_);
    keys = book_.Keys();
  }
  for (const RecordKey& key : keys) {
    if (stop_) return;
    static_cast<void>(Read(key, /*is_use=*/false));
  }
}

}  // namespace tandem::kv_store
