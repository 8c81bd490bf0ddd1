#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "kv_store/base/block_hash.h"
#include "kv_store/records/tier.h"

namespace tandem::kv_store {

/// A block's records are encrypted with this; without it they are noise. It is destroyed with the
/// block at once, while the records' bytes stay in their files until those are collected.
using BlockSecret = std::array<uint8_t, 32>;

/// What the disk tier keeps in RocksDB: encrypted records in blob files, and a small index of them,
/// so that opening reads no record.
///
/// There is no write-ahead log: what is written is lost with the process until Flush returns.
/// Thread safety: all functions, but writers are in order only if the caller orders them.
class RecordDatabase {
 public:
  struct Options {
    std::string directory;  // made with mode 0700
    int64_t memtable_bytes = int64_t{32} << 20;
    std::chrono::milliseconds write_deadline{1000};
    bool keeps_damaged = false;
  };
  /// Opens the database. One that is damaged is destroyed and begun anew, and began_anew() says
  /// why; with keeps_damaged it stays, and kDataLoss is returned. What is in the way of its files
  /// is put aside (MakeWay). kFailedPrecondition if another process has it open.
  static absl::StatusOr<std::unique_ptr<RecordDatabase>> Open(const Options& options);
  ~RecordDatabase();
  /// Destroys a database that is closed.
  static absl::Status Destroy(const std::string& directory);

  const std::string& began_anew() const { return began_anew_; }

  struct Block {
    BlockHash block{};
    BlockHash before{};
    uint64_t tenant = 0;
    BlockSecret secret{};
    uint64_t last_use = 0;
  };
  /// Visits every record with the block that it is of. kDataLoss if the index is damaged.
  absl::Status ForEachRecord(
      const std::function<void(const Block& block, const RecordKey& key, int64_t bytes)>& visit);

  /// Changes that are made together. Must not outlive the database.
  class Batch {
   public:
    /// room: for as many bytes without being moved as it grows.
    explicit Batch(RecordDatabase& database, size_t room = 0);
    ~Batch();
    void PutBlock(const Block& block);
    void PutLastUse(const BlockHash& block, uint64_t last_use);
    void PutRecord(const TierRecord& record, const BlockSecret& secret);
    void DeleteRecord(const BlockHash& block, const RecordKey& key);
    void DeleteBlock(const BlockHash& block);
    size_t bytes() const;

   private:
    friend class RecordDatabase;
    struct Changes;
    std::unique_ptr<Changes> changes_;
  };
  /// kResourceExhausted where the disk is full or does not keep up within the write deadline (then
  /// nothing was written), kDataLoss where the database is damaged.
  absl::Status Write(Batch& batch);

  /// The record's bytes; kNotFound, or kDataLoss where they are damaged.
  absl::StatusOr<std::vector<std::byte>> Read(const RecordKey& key, const BlockSecret& secret);

  /// All that was written is in files when it returns.
  absl::Status Flush();
  /// When it returns, the secrets of deleted blocks are in no file any more.
  absl::Status EraseDeletedBlocks();

  /// Bytes of all files.
  int64_t BytesOnDisk();
  int64_t BlobFiles();
  /// How far Collect goes.
  struct Goal {
    int64_t garbage_bytes = 0;    // of deleted records that may stay
    int64_t files = 0;            // more are joined
    int64_t rewritten_bytes = 0;  // of live records at a time, about: that much more room it takes
  };
  /// Gives back the room of deleted records. Takes its time; ends early when `stop` is set.
  absl::Status Collect(const Goal& goal, std::atomic<bool>& stop);

 private:
  struct Files;

  RecordDatabase();
  absl::Status OpenFiles();

  Options options_;
  std::string began_anew_;
  std::unique_ptr<Files> files_;
};

}  // namespace tandem::kv_store
