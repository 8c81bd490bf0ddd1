#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/base/status.h"
#include "kv_store/base/file_facts.h"

namespace rocksdb {
class DB;
}  // namespace rocksdb

namespace tandem::kv_store {

/// Whether the files that a database has open are those that its folder has. Whoever removes or
/// replaces them takes them from the next process, and RocksDB goes on with open files as if
/// nothing were.
///
/// A file that is seen for the first time is the database's own if this process has it open,
/// whatever has that name: logs and tables are made between two looks, too. A look costs a few
/// system calls. A file that is changed in place, and not cut, is not noticed. Thread safety: none;
/// other threads may use the database.
class DatabaseWatch {
 public:
  /// Of a database that was just opened in the folder.
  DatabaseWatch(std::string folder, rocksdb::DB& db);

  /// kDataLoss, saying which is gone, replaced (any file: by a link) or cut; kUnavailable if that
  /// cannot be known.
  absl::Status Check(rocksdb::DB& db);

 private:
  /// Of the files that there are now. `wrong`: which one is.
  absl::Status CheckFiles(rocksdb::DB& db, std::string& wrong);
  /// `least`: bytes that it has for sure. What is in a table stays as it is, in others it may get
  /// more.
  absl::Status CheckFile(const std::string& name, uint64_t least);

  std::string folder_;
  std::optional<FileFacts> at_;            // the folder; nothing: it was gone already
  std::vector<FileFacts> open_;            // of this look; empty: not asked yet
  std::map<std::string, FileFacts> seen_;  // files, by name, as they were when they were seen last
};

/// Closes a database, and removes nothing: RocksDB would remove what it does not know, which may be
/// what somebody put in the place of its files.
void CloseGently(std::unique_ptr<rocksdb::DB> db);

}  // namespace tandem::kv_store
