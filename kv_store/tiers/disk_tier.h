#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "core/base/mutex.h"
#include "kv_store/tiers/erasure_mark.h"
#include "kv_store/tiers/indexed_tier.h"
#include "kv_store/tiers/record_database.h"

namespace tandem::kv_store {

struct DiskTierOptions {
  std::string directory;
  /// Of records. Files may hold a tenth more (at least `least_garbage_bytes`) that is not collected
  /// yet.
  TierLimits limits;
  int64_t memtable_bytes = int64_t{32} << 20;  // up to four of them wait in memory to be written
  int64_t reserve_bytes = int64_t{64} << 20;   // of the file system, left free
  int64_t least_garbage_bytes = int64_t{64} << 20;
  int64_t most_files = 4096;  // more are joined
  std::chrono::milliseconds write_deadline{1000};
  bool keeps_damaged = false;  // a damaged database is refused instead of begun anew
  /// A file outside, by which records are known that are of a time before the last Erase: they are
  /// dropped. Empty: they are not known.
  std::string erasure_mark = {};
};

/// Keeps records in RocksDB below a directory (record_database.h), across restarts.
///
/// What is put and not flushed dies with the process. A full disk refuses what is put and serves
/// what it has, until there is room again. Damaged records are dropped and counted; a database
/// that cannot be opened is begun anew. Records are encrypted under a secret of their block, and
/// Erase returns when that is destroyed; the room comes back later, in a thread of the tier's own.
///
/// Thread safety: as Tier.
class DiskTier : public IndexedTier {
 public:
  /// Errors: as RecordDatabase::Open.
  static absl::StatusOr<std::unique_ptr<DiskTier>> Open(const DiskTierOptions& options);
  ~DiskTier() override;

  absl::Status Put(std::span<const TierRecord> records) override;
  void Use(std::span<const RecordKey> keys) override;
  absl::Status Flush() override;
  absl::Status Erase(std::span<const BlockHash> blocks) override;
  absl::Status Drop(std::span<const RecordKey> keys) override;

  /// Of all files.
  int64_t BytesOnDisk();
  /// Why what was there at the start was thrown away; empty if it was not.
  std::string began_anew();

 private:
  explicit DiskTier(const DiskTierOptions& options);

  /// What one batch changes in the index, to be undone if it cannot be written.
  struct Change;

  absl::Status OpenDatabase() ABSL_EXCLUSIVE_LOCKS_REQUIRED(opened_);
  /// What could not be written is taken out of the index again.
  absl::Status Write(Change& change) ABSL_EXCLUSIVE_LOCKS_REQUIRED(writing_)
      ABSL_SHARED_LOCKS_REQUIRED(opened_);
  void DeleteInBatch(const BlockIndex::Removed& removed, Change& change)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  enum class ReadEnd { kFound, kMissing, kFailed };
  ReadEnd ReadOnce(const RecordKey& key, bool is_use, FoundRecord& found)
      ABSL_SHARED_LOCKS_REQUIRED(opened_);
  /// Waits for what is about to be written; what fails even so is told while nobody writes.
  ReadEnd ReadSettled(const RecordKey& key, bool is_use, FoundRecord& found,
                      const std::function<void()>& when_damaged);
  std::optional<FoundRecord> Read(const RecordKey& key, bool is_use);
  std::optional<FoundRecord> GetOne(const RecordKey& key) override {
    return Read(key, /*is_use=*/true);
  }
  PeekedRecord PeekOne(const RecordKey& key) override;
  /// Drops a record from the index, and its block's secret with the last one.
  void DropRecord(const RecordKey& key, const BlockHash& block)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status WriteLastUses();
  /// Remembers what a status says of the database's health.
  absl::Status Noted(absl::Status status);
  absl::Status Closed() const;
  bool DiskIsFull() const;
  int64_t GarbageTolerated() const;
  int64_t Garbage() ABSL_SHARED_LOCKS_REQUIRED(opened_);
  /// The collector's thread.
  void RunCollector();
  void CollectGarbage();
  /// Opens the database again, anew if that has been tried in vain, and reads everything, so that
  /// what is damaged is dropped before it is met again.
  void Repair(bool again);

  const DiskTierOptions options_;
  const ErasureMark mark_;
  Mutex marking_;  // held by whoever writes the mark

  // Held by whoever changes the database: one at a time, in the index's order.
  Mutex writing_ ABSL_ACQUIRED_BEFORE(opened_);

  SharedMutex opened_ ABSL_ACQUIRED_BEFORE(mutex_);  // held exclusively by whoever opens it again
  // Null while it cannot be opened again.
  std::unique_ptr<RecordDatabase> database_ ABSL_GUARDED_BY(opened_);

  Mutex flushing_ ABSL_ACQUIRED_BEFORE(writing_);
  uint64_t flushed_changes_ ABSL_GUARDED_BY(flushing_) = 0;

  CondVar changed_;
  std::unordered_map<BlockHash, BlockSecret, BlockHashBits> secrets_ ABSL_GUARDED_BY(mutex_);
  // Blocks that were used since their last use was written.
  std::unordered_set<BlockHash, BlockHashBits> used_ ABSL_GUARDED_BY(mutex_);
  // Out of the index, but still in the database.
  std::vector<BlockIndex::Removed> to_delete_ ABSL_GUARDED_BY(mutex_);
  uint64_t changes_ ABSL_GUARDED_BY(mutex_) = 0;  // written
  // Secrets of deleted blocks may be in files.
  bool secrets_in_files_ ABSL_GUARDED_BY(mutex_) = false;
  bool damaged_ ABSL_GUARDED_BY(mutex_) = false;  // the database says so
  std::atomic<bool> stop_ = false;

  int64_t garbage_left_ = 0;  // that could not be collected; the collector's
  std::thread collector_;
};

}  // namespace tandem::kv_store
