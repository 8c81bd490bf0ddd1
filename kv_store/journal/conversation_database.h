#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/base/status.h"
#include "kv_store/journal/database_scan.h"
#include "kv_store/journal/database_ways.h"

namespace rocksdb {
class DB;
}  // namespace rocksdb

/// The RocksDB under the conversations: how it is opened, read in whole, and put right.
namespace tandem::kv_store {

/// What lies at a place; null: nothing.
const std::string* BytesAt(std::span<const PlacedRecord> records, std::string_view place);

/// Opens or makes a database. kFailedPrecondition if another process has it; kDataLoss if it is
/// damaged, but for a torn end of the log, which is left out: nothing is changed then. Files that
/// would end the process are damage, too: another process tries them first (database_trial.h).
absl::StatusOr<std::unique_ptr<rocksdb::DB>> OpenDatabase(const std::string& folder);

struct CheckedDatabase {
  std::unique_ptr<rocksdb::DB> db;
  /// There are files beside it, which one that was ended at any time may have left, or somebody
  /// copied into it: what it makes of them later may end the process. Write it anew.
  bool strangers = false;
};
/// The same of a database of which all can be read.
absl::StatusOr<CheckedDatabase> OpenCheckedDatabase(const std::string& folder);

/// All records, in order. kDataLoss if a table is damaged.
absl::StatusOr<std::vector<PlacedRecord>> ReadStrictly(rocksdb::DB& db);
/// Writes and syncs them.
absl::Status WriteAll(rocksdb::DB& db, const std::vector<PlacedRecord>& records);

/// Opens or makes a database whatever is damaged of it, and reads all that can be read. What cannot
/// be opened is made anew of its tables and logs, one that has damaged tables of all that is
/// readable. The files that were there are in an image (database_image.h), which the caller keeps,
/// restores or drops. Whatever has the name of a file or folder of it and is none is renamed first
/// (MakeWay). kFailedPrecondition if another process has it, or a file of it is a link or another
/// user's.
///
/// `trusted`: false where MANIFEST, though it can be read, is known to have lost its end. Then the
/// tables and logs of the image count.
absl::StatusOr<ReadDatabase> ReadWhole(const std::string& folder, bool trusted = true);

/// Reads all that can be read, also while another process has it open, whose writes before the call
/// are there; changes nothing. kNotFound if there is no database; kDataLoss if its files would end
/// the process.
absl::StatusOr<ReadDatabase> LookIntoDatabase(const std::string& folder);

/// Writes a database of these records in the place of one that is open here, of whose files some
/// are gone or replaced (DatabaseWatch): `db`, which is closed, and is the new one then. What has
/// the folder's name is kept in `FOLDER.aside-N`, whose name `aside` is then, also after an error.
/// Whoever ends meanwhile leaves one or the other. After an error `db` is what it was, or null;
/// then OpenInPlace may go on.
absl::Status PutInPlace(const std::string& folder, const std::vector<PlacedRecord>& records,
                        std::unique_ptr<rocksdb::DB>& db, std::string& aside);
/// OpenDatabase, of one that PutInPlace has left off with, too. kDataLoss also if there is none.
absl::StatusOr<std::unique_ptr<rocksdb::DB>> OpenInPlace(const std::string& folder);

/// Writes the tables that hold keys of [from, to) again without what was deleted, and removes the
/// logs; returns once none of the files that held it is there any more.
absl::Status EraseRanges(rocksdb::DB& db, const std::string& folder,
                         const std::vector<std::pair<std::string, std::string>>& ranges);

}  // namespace tandem::kv_store
