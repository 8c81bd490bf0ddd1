#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace rocksdb {
class DB;
class Iterator;
class Status;
}  // namespace rocksdb

namespace tandem::kv_store {

struct PlacedRecord {
  std::string place;
  std::string bytes;
};

/// Reads all records of a database in order; where they cannot be read, goes on behind. The
/// database outlives it. Thread safety: none.
class DatabaseScan {
 public:
  /// check: blocks whose checksum is wrong are damage.
  DatabaseScan(rocksdb::DB& db, bool check);
  ~DatabaseScan();

  /// Until the end, or the first damage.
  rocksdb::Status Strictly(std::vector<PlacedRecord>& records);
  /// Everything that can be read; how many gaps there were.
  int64_t Leniently(std::vector<PlacedRecord>& records);

 private:
  void Take(std::vector<PlacedRecord>& records);
  bool Readable(const std::string& place);
  bool SkipDamage(const std::string& last);

  std::unique_ptr<rocksdb::Iterator> iterator_;
  std::unique_ptr<rocksdb::Iterator> checked_;
};

}  // namespace tandem::kv_store
