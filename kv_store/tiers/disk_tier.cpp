#include "kv_store/tiers/disk_tier.h"

#include <sodium.h>
#include <spdlog/spdlog.h>
#include <sys/statvfs.h>

#include <algorithm>
#include <utility>

#include "kv_store/base/files.h"

namespace tandem::kv_store {
namespace {

// A batch is written when it has so many bytes.
constexpr size_t kWriteBatchBytes = size_t{8} << 20;
constexpr size_t kEntriesBytes = 512;  // of a record in the index and its block's, about
constexpr std::chrono::milliseconds kCollectorInterval{500};
// A database that is damaged again so soon after it was opened again is begun anew.
constexpr std::chrono::seconds kRepairHolds{60};

using Clock = std::chrono::steady_clock;

/// What a batch takes that begins with these records.
size_t RoomFor(std::span<const TierRecord> records) {
  size_t room = 0;
  for (const TierRecord& record : records) {
    if (room >= kWriteBatchBytes) break;
    room += record.bytes.size() + kEntriesBytes;
  }
  return room;
}

/// Without it what was deleted may come back with an older folder, and nothing else.
void WarnOfMark(const absl::Status& written) {
  if (!written.ok())
    spdlog::warn("{}: older KV that is put back will not be known", Message(written));
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
  {
    const WriterMutexLock opened(tier->opened_);
    if (kv_store::Exists(options.directory + "/CURRENT") && tier->mark_.FolderIsOlder()) {
      TANDEM_RETURN_IF_ERROR(RecordDatabase::Destroy(options.directory));
      spdlog::warn(
          "{}: it was put back, and is older than what was deleted since (or {} is gone, which "
          "tells): "
          "all KV in it is dropped",
          options.directory, options.erasure_mark);
    }
    TANDEM_RETURN_IF_ERROR(tier->OpenDatabase());
  }
  tier->collector_ = std::thread([raw = tier.get()] { raw->RunCollector(); });
  return tier;
}

DiskTier::DiskTier(const DiskTierOptions& options)
    : IndexedTier(TierKind::kDisk, "KV store on disk, " + options.directory, options.limits),
      options_(options),
      mark_(options.directory, options.erasure_mark) {}

DiskTier::~DiskTier() {
  {
    const MutexLock lock(mutex_);
    stop_ = true;
    changed_.NotifyAll();
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
  WarnOfMark(mark_.Accept());
  const MutexLock lock(mutex_);
  index_ = BlockIndex(options_.limits);
  secrets_.clear();
  used_.clear();
  to_delete_.clear();
  TANDEM_RETURN_IF_ERROR(database_->ForEachRecord(
      [this](const RecordDatabase::Block& block, const RecordKey& key, int64_t bytes)
          ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
            index_.Restore(key, block.block, block.before, block.tenant, bytes, block.last_use);
            secrets_[block.block] = block.secret;
          }));
  to_delete_ = index_.Shrink();
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
    const MutexLock lock(mutex_);
    damaged_ = true;
    changed_.NotifyAll();
  }
  return status;
}

absl::Status DiskTier::Closed() const {
  return Unavailable("{}: it was damaged and cannot be opened again yet", name());
}

void DiskTier::DeleteInBatch(const BlockIndex::Removed& removed, Change& change) {
  for (const RecordKey& key : removed.keys) change.batch.DeleteRecord(removed.block, key);
  if (!secrets_.contains(removed.block)) change.batch.DeleteBlock(removed.block);
  secrets_in_files_ = true;
  change.removed.push_back(removed);
}

void DiskTier::DropRecord(const RecordKey& key, const BlockHash& block) {
  index_.DropRecord(key);
  if (!index_.LastUse(block)) secrets_.erase(block);
}

absl::Status DiskTier::Write(Change& change) {
  absl::Status status = Noted(database_->Write(change.batch));
  const MutexLock lock(mutex_);
  if (status.ok()) {
    if (!change.added.empty() || !change.removed.empty()) ++changes_;
    return status;
  }
  for (const auto& [key, block] : change.added) DropRecord(key, block);
  to_delete_.insert(to_delete_.end(), change.removed.begin(), change.removed.end());
  return status;
}

absl::Status DiskTier::Put(std::span<const TierRecord> records) {
  if (records.empty()) return absl::OkStatus();
  const MutexLock writing(writing_);
  const ReaderMutexLock opened(opened_);
  if (database_ == nullptr) return Closed();
  const bool full = DiskIsFull();
  absl::Status status;
  uint64_t refused = 0;
  for (size_t next = 0; next < records.size();) {
    Change change(*database_, RoomFor(records.subspan(next)));
    {
      const MutexLock lock(mutex_);
      for (const BlockIndex::Removed& removed : std::exchange(to_delete_, {})) {
        DeleteInBatch(removed, change);
      }
    }
    for (; next < records.size() && change.batch.bytes() < kWriteBatchBytes; ++next) {
      const TierRecord& record = records[next];
      BlockSecret secret{};
      {
        const MutexLock lock(mutex_);
        if (index_.Use(record.key)) {
          used_.insert(record.block);
          continue;
        }
        std::vector<BlockIndex::Removed> evicted;
        const bool added = !full && AddToIndex(record, evicted);
        for (const BlockIndex::Removed& removed : evicted) {
          secrets_.erase(removed.block);
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
          change.batch.PutLastUse(record.block, index_.clock());
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
  absl::Status no_room = Refused(refused, records.size());
  if (!status.ok() || no_room.ok() || !full) return status.ok() ? no_room : status;
  return ResourceExhausted("{}: less than {} bytes are free on its file system; make room there",
                           name(), options_.reserve_bytes);
}

DiskTier::ReadEnd DiskTier::ReadOnce(const RecordKey& key, bool is_use, FoundRecord& found) {
  if (database_ == nullptr) return ReadEnd::kMissing;
  BlockSecret secret{};
  {
    const MutexLock lock(mutex_);
    const auto place = index_.Find(key);
    if (!place) return ReadEnd::kMissing;
    found.from = TierKind::kDisk;
    found.block = place->block;
    found.before = place->before;
    found.tenant = place->tenant;
    secret = secrets_.at(place->block);
    if (is_use) {
      index_.Use(key);
      used_.insert(place->block);
    }
  }
  absl::StatusOr<std::vector<std::byte>> bytes = database_->Read(key, secret);
  const MutexLock lock(mutex_);
  // It may have gone meanwhile, and come back under another secret.
  const auto still = secrets_.find(found.block);
  if (!index_.Has(key) || still == secrets_.end() || still->second != secret) {
    return ReadEnd::kMissing;
  }
  if (!bytes.ok()) return ReadEnd::kFailed;
  found.bytes = std::move(*bytes);
  return ReadEnd::kFound;
}

DiskTier::ReadEnd DiskTier::ReadSettled(const RecordKey& key, bool is_use, FoundRecord& found,
                                        const std::function<void()>& when_damaged) {
  {
    const ReaderMutexLock opened(opened_);
    const ReadEnd end = ReadOnce(key, is_use, found);
    if (end != ReadEnd::kFailed) return end;
  }
  // Either it is in the index and about to be written, or it is damaged.
  const MutexLock writing(writing_);
  const ReaderMutexLock opened(opened_);
  const ReadEnd end = ReadOnce(key, is_use, found);
  if (end == ReadEnd::kFailed && when_damaged != nullptr) when_damaged();
  return end;
}

std::optional<FoundRecord> DiskTier::Read(const RecordKey& key, bool is_use) {
  FoundRecord found;
  const ReadEnd end = ReadSettled(key, is_use, found, [&] {
    const MutexLock lock(mutex_);
    DropRecord(key, found.block);
    to_delete_.push_back({.block = found.block, .keys = {key}});
    ++counts_.dropped;
  });
  if (end != ReadEnd::kFound) return std::nullopt;
  return found;
}

absl::Status DiskTier::WriteLastUses() {
  const MutexLock writing(writing_);
  const ReaderMutexLock opened(opened_);
  if (database_ == nullptr) return Closed();
  Change change(*database_);
  {
    const MutexLock lock(mutex_);
    if (used_.empty()) return absl::OkStatus();
    for (const BlockHash& block : std::exchange(used_, {})) {
      if (const auto last_use = index_.LastUse(block)) change.batch.PutLastUse(block, *last_use);
    }
    ++changes_;
  }
  return Write(change);
}

absl::Status DiskTier::Flush() {
  const MutexLock flushing(flushing_);
  {
    const MutexLock lock(mutex_);
    if (changes_ == flushed_changes_) return absl::OkStatus();
  }
  static_cast<void>(WriteLastUses());  // worth having, not worth failing for
  uint64_t changes = 0;
  {
    const MutexLock lock(mutex_);
    changes = changes_;
  }
  const ReaderMutexLock opened(opened_);
  if (database_ == nullptr) return Closed();
  TANDEM_RETURN_IF_ERROR(Noted(database_->Flush()));
  flushed_changes_ = changes;
  return absl::OkStatus();
}

void DiskTier::Use(std::span<const RecordKey> keys) {
  const MutexLock lock(mutex_);
  for (const RecordKey& key : keys) {
    if (index_.Use(key)) used_.insert(index_.Find(key)->block);
  }
}

absl::Status DiskTier::Erase(std::span<const BlockHash> blocks) {
  if (blocks.empty()) return absl::OkStatus();
  {
    const MutexLock writing(writing_);
    const ReaderMutexLock opened(opened_);
    if (database_ == nullptr) return Closed();
    Change change(*database_);
    {
      const MutexLock lock(mutex_);
      std::vector<BlockIndex::Removed> all = std::exchange(to_delete_, {});
      for (const BlockHash& block : blocks) {
        for (BlockIndex::Removed& removed : index_.DropBlock(block)) {
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
      const MutexLock lock(mutex_);
      secrets_in_files_ = true;
      return status;
    }
  }
  const ReaderMutexLock opened(opened_);
  if (database_ == nullptr) return Closed();
  absl::Status status = Noted(database_->EraseDeletedBlocks());
  if (status.ok()) {
    const MutexLock writing(marking_);
    WarnOfMark(mark_.Note());
  } else {
    const MutexLock lock(mutex_);
    secrets_in_files_ = true;
  }
  return status;
}

absl::Status DiskTier::Drop(std::span<const RecordKey> keys) {
  const MutexLock writing(writing_);
  const ReaderMutexLock opened(opened_);
  if (database_ == nullptr) return Closed();
  Change change(*database_);
  {
    const MutexLock lock(mutex_);
    for (const BlockIndex::Removed& removed : std::exchange(to_delete_, {})) {
      DeleteInBatch(removed, change);
    }
    for (const RecordKey& key : keys) {
      const auto place = index_.Find(key);
      if (!place) continue;
      DropRecord(key, place->block);
      DeleteInBatch({.block = place->block, .keys = {key}}, change);
    }
  }
  return change.removed.empty() ? absl::OkStatus() : Write(change);
}

PeekedRecord DiskTier::PeekOne(const RecordKey& key) {
  FoundRecord found;
  const ReadEnd end = ReadSettled(key, /*is_use=*/false, found, nullptr);
  if (end == ReadEnd::kMissing) return {};
  return {.state = end == ReadEnd::kFound ? PeekedRecord::State::kThere
                                          : PeekedRecord::State::kUnreadable,
          .bytes = std::move(found.bytes)};
}

int64_t DiskTier::BytesOnDisk() {
  const ReaderMutexLock opened(opened_);
  return database_ == nullptr ? 0 : database_->BytesOnDisk();
}

std::string DiskTier::began_anew() {
  const ReaderMutexLock opened(opened_);
  return database_ == nullptr ? std::string() : database_->began_anew();
}

int64_t DiskTier::GarbageTolerated() const {
  return std::max(options_.least_garbage_bytes, options_.limits.bytes / 10);
}

int64_t DiskTier::Garbage() {
  const int64_t on_disk = database_->BytesOnDisk();
  const MutexLock lock(mutex_);
  return std::max<int64_t>(0, on_disk - index_.bytes());
}

void DiskTier::RunCollector() {
  uint64_t seen = 0;
  std::optional<Clock::time_point> repaired;
  for (;;) {
    {
      MutexLock lock(mutex_);
      const auto next = Clock::now() + kCollectorInterval;
      while (!stop_ && changed_.WaitUntil(mutex_, next)) {
      }
      if (stop_) return;
      if (!damaged_ && changes_ == seen) continue;
      seen = changes_;
      if (damaged_) {
        lock.Unlock();
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
  const ReaderMutexLock opened(opened_);
  if (database_ == nullptr) return;
  const int64_t found = Garbage();
  garbage_left_ = std::min(garbage_left_, found);
  const int64_t tolerated = GarbageTolerated();
  if (found <= garbage_left_ + tolerated && database_->BlobFiles() <= options_.most_files) return;
  const auto changes = [this] {
    const MutexLock lock(mutex_);
    return changes_;
  };
  const uint64_t before = changes();
  static_cast<void>(
      Noted(database_->Collect({.garbage_bytes = tolerated / 2,
                                .files = options_.most_files,
                                .rewritten_bytes = std::max(options_.limits.bytes / 8, tolerated)},
                               stop_)));
  // What could not be got is not tried again before there is more of it. What died meanwhile was
  // not tried yet.
  const int64_t left = std::max<int64_t>(0, Garbage() - tolerated);
  if (changes() == before) garbage_left_ = left;
}

void DiskTier::Repair(bool again) {
  std::vector<RecordKey> keys;
  {
    const MutexLock writing(writing_);
    const WriterMutexLock opened(opened_);
    database_.reset();
    if (again) static_cast<void>(RecordDatabase::Destroy(options_.directory));
    if (!OpenDatabase().ok()) {
      // Tried again when the collector wakes next.
      database_.reset();
      const MutexLock lock(mutex_);
      index_ = BlockIndex(options_.limits);
      damaged_ = true;
      return;
    }
    const MutexLock lock(mutex_);
    keys = index_.Keys();
  }
  for (const RecordKey& key : keys) {
    if (stop_) return;
    static_cast<void>(Read(key, /*is_use=*/false));
  }
}

}  // namespace tandem::kv_store
