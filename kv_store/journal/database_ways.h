#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/status.h"
#include "kv_store/journal/database_scan.h"

namespace rocksdb {
class DB;
struct Options;
class Status;
}  // namespace rocksdb

/// The ways from the files of a folder to a database, and to what can be read of it. RocksDB, as
/// distributions build it, asserts much of what it finds in files, so another process goes first.
namespace tandem::kv_store {

/// What a database's error means here: kResourceExhausted where the disk is full, kDataLoss where
/// something is damaged, else kUnavailable.
absl::Status FromDatabase(const rocksdb::Status& status, std::string_view doing);

struct ReadDatabase {
  std::unique_ptr<rocksdb::DB> db;    // of kLook: for reading only
  std::vector<PlacedRecord> records;  // all but those of `gaps`, by place
  int64_t gaps = 0;                   // runs of records that cannot be read
  std::string damage;                 // of the files; empty: none was seen
  std::string moved;                  // what was in their way, and where it is; empty: nothing was
  bool torn = false;                  // it is that of a log alone, perhaps only of its end
};

enum class DatabaseWay {
  kOpened,     // opened for writing, or made; nothing is read
  kIfThere,    // the same; kDataLoss if there is none
  kChecked,    // opened or made, and all of it was read once; kDataLoss if that cannot be done
  kAsItIs,     // all that can be read is read; of a log that is damaged, what is whole
  kRepaired,   // the same by tables and logs alone, without the files that say what belongs to it
  kLook,       // all that can be read is read, for reading only, beside another process
  kUnchecked,  // all that can be read of blocks whose checksums are wrong; for trials alone
};

rocksdb::Options DatabaseOptions(const std::string& folder);
absl::StatusOr<std::unique_ptr<rocksdb::DB>> OpenWith(const rocksdb::Options& options,
                                                      const std::string& folder);

/// Goes a way that was tried before. kDataLoss: it leads nowhere. kFailedPrecondition if another
/// process has the database open.
absl::Status Go(DatabaseWay way, const std::string& folder, ReadDatabase& read);
/// Whether another process comes to the end of a way, with links to the folder's files; kLook needs
/// none.
bool Survives(DatabaseWay way, const std::string& folder);
inline constexpr const char* kDeadly = "its files end the process that reads them together";
/// Goes a way, if another process came to its end; else kDataLoss.
absl::Status TryAndGo(DatabaseWay way, const std::string& folder, ReadDatabase& read);

/// What main calls first in every program that opens databases, since a trial is another process of
/// the same program. The exit status of a trial; nothing if the words are none of one.
std::optional<int> RunDatabaseTrial(std::span<const char* const> words);

}  // namespace tandem::kv_store
