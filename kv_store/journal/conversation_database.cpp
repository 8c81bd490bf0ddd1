#include "kv_store/journal/conversation_database.h"

#include <rocksdb/db.h>
#include <rocksdb/write_batch.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <map>
#include <set>
#include <thread>
#include <utility>

#include "kv_store/base/files.h"
#include "kv_store/journal/database_image.h"
#include "kv_store/journal/database_trial.h"
#include "kv_store/journal/database_watch.h"

namespace tandem::kv_store {
namespace {

namespace fs = std::filesystem;

constexpr size_t kBatchBytes = size_t{4} << 20;
constexpr auto kDeletionTime = std::chrono::seconds(5);
constexpr int kLooks = 10;
constexpr auto kBetweenLooks = std::chrono::milliseconds(50);

std::set<std::string> FilesOf(const std::string& folder, std::string_view extension) {
  std::set<std::string> files;
  std::error_code error;
  for (auto entry = fs::directory_iterator(folder, error);
       !error && entry != fs::directory_iterator(); entry.increment(error)) {
    if (entry->path().extension() == extension) files.insert(entry->path().filename());
  }
  return files;
}

bool HasDatabaseFiles(const std::string& folder) {
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    const std::string name = entry.path().filename();
    if (name.ends_with(".sst") || name.ends_with(".log") || name.starts_with("MANIFEST-")) {
      return true;
    }
  }
  return false;
}

/// Whether it is a folder of a database that never came to be.
bool IsBare(const std::string& folder) {
  std::error_code error;
  if (!fs::is_directory(fs::symlink_status(folder, error))) return false;
  const fs::directory_iterator entries(folder, error);
  return !error && std::all_of(begin(entries), end(entries), [](const fs::directory_entry& entry) {
    return entry.path().filename() == "LOCK" && entry.is_regular_file();
  });
}

/// One of the files that is still in the folder and not among those that live; empty: none is.
std::string FileLeft(const std::string& folder, const std::set<std::string>& files,
                     const std::set<std::string>& live) {
  for (const std::string& file : files) {
    if (!live.contains(file) && Exists(fmt::format("{}/{}", folder, file))) return file;
  }
  return "";
}

}  // namespace

const std::string* BytesAt(std::span<const PlacedRecord> records, std::string_view place) {
  const auto record = std::find_if(records.begin(), records.end(),
                                   [&](const PlacedRecord& one) { return one.place == place; });
  return record == records.end() ? nullptr : &record->bytes;
}

absl::StatusOr<std::vector<PlacedRecord>> ReadStrictly(rocksdb::DB& db) {
  std::vector<PlacedRecord> records;
  const rocksdb::Status status = DatabaseScan(db, /*check=*/true).Strictly(records);
  if (!status.ok()) return FromDatabase(status, "reading all records");
  return records;
}

absl::Status WriteAll(rocksdb::DB& db, const std::vector<PlacedRecord>& records) {
  rocksdb::WriteOptions options;
  options.sync = true;
  rocksdb::WriteBatch batch;
  for (size_t i = 0; i < records.size(); ++i) {
    batch.Put(records[i].place, records[i].bytes);
    if (batch.GetDataSize() < kBatchBytes && i + 1 < records.size()) continue;
    const rocksdb::Status status = db.Write(options, &batch);
    if (!status.ok()) return FromDatabase(status, "writing what could be read");
    batch.Clear();
  }
  return absl::OkStatus();
}

namespace {

/// Each table and log by itself, in the order of their numbers; what several have is that of the
/// last.
absl::Status ReadEachAlone(const std::string& folder, ReadDatabase& read) {
  const std::string from = FilesBefore(folder);
  std::vector<std::string> files;
  for (const char* extension : {".sst", ".log"}) {
    for (const std::string& file : FilesOf(from, extension)) files.push_back(file);
  }
  std::sort(files.begin(), files.end(), [](const std::string& a, const std::string& b) {
    return std::pair(a.size(), a) < std::pair(b.size(), b);
  });
  const std::string alone = folder + kTrialFolder + "/alone";
  std::map<std::string, std::string> records;
  for (const std::string& file : files) {
    TANDEM_RETURN_IF_ERROR(Remove(alone));
    TANDEM_RETURN_IF_ERROR(LinkFiles(from, alone, file));
    ReadDatabase one;
    absl::Status status = TryAndGo(DatabaseWay::kRepaired, alone, one);
    if (!status.ok() && !absl::IsDataLoss(status)) return status;
    if (!status.ok()) read.damage += fmt::format("; {}: {}", file, Message(status));
    read.gaps += one.gaps;
    for (PlacedRecord& record : one.records) records[record.place] = std::move(record.bytes);
  }
  for (auto& [place, bytes] : records) read.records.push_back({place, std::move(bytes)});
  return Remove(folder + kTrialFolder);
}

/// A database of what was read, in the place of that which it was read from.
absl::Status WriteAnew(const std::string& folder, ReadDatabase& read) {
  const rocksdb::Options options = DatabaseOptions(folder);
  const std::string renewed = folder + kRenewed;
  TANDEM_RETURN_IF_ERROR(Remove(renewed));
  {
    TANDEM_ASSIGN_OR_RETURN(const auto copy, OpenWith(options, renewed));
    TANDEM_RETURN_IF_ERROR(WriteAll(*copy, read.records));
  }
  read.db.reset();
  TANDEM_RETURN_IF_ERROR(DiscardFiles(folder));
  TANDEM_RETURN_IF_ERROR(Rename(renewed, folder));
  TANDEM_ASSIGN_OR_RETURN(read.db, OpenWith(options, folder));
  return absl::OkStatus();
}

}  // namespace

absl::Status PutInPlace(const std::string& folder, const std::vector<PlacedRecord>& records,
                        std::unique_ptr<rocksdb::DB>& db, std::string& aside) {
  const std::string unfinished = folder + kUnfinished;
  TANDEM_RETURN_IF_ERROR(MakeWay(unfinished, FileKind::kFolder));
  TANDEM_RETURN_IF_ERROR(Remove(unfinished));
  {
    TANDEM_ASSIGN_OR_RETURN(const auto whole, OpenWith(DatabaseOptions(folder), unfinished));
    TANDEM_RETURN_IF_ERROR(WriteAll(*whole, records));
  }
  TANDEM_RETURN_IF_ERROR(MakeWay(folder + kRenewed, FileKind::kFolder));
  TANDEM_RETURN_IF_ERROR(Remove(folder + kRenewed));
  TANDEM_RETURN_IF_ERROR(Rename(unfinished, folder + kRenewed));
  if (IsBare(folder)) TANDEM_RETURN_IF_ERROR(Remove(folder));
  if (Exists(folder)) {
    const std::string name = FreeName(folder, "aside");
    TANDEM_RETURN_IF_ERROR(Rename(folder, name));
    aside = name;
  }
  // Not earlier: what it removes by name must not be the new one's.
  CloseGently(std::move(db));
  TANDEM_ASSIGN_OR_RETURN(db, OpenInPlace(folder));
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<rocksdb::DB>> OpenInPlace(const std::string& folder) {
  if (!Exists(folder) && Exists(folder + kRenewed)) {
    TANDEM_RETURN_IF_ERROR(Rename(folder + kRenewed, folder));
    TANDEM_RETURN_IF_ERROR(SyncFolder(FolderOf(folder)));
  }
  if (!Exists(folder)) return absl::DataLossError(folder + " is gone");
  ReadDatabase read;
  TANDEM_RETURN_IF_ERROR(TryAndGo(DatabaseWay::kIfThere, folder, read));
  return std::move(read.db);
}

namespace {

/// Whether there are files that a database which was ended at any time may have, too, but one that
/// files of another time were copied into has for sure: what RocksDB makes of them later may end
/// the process.
bool HasStrangers(rocksdb::DB& db, const std::set<std::string>& logs,
                  const std::set<std::string>& tables) {
  std::vector<rocksdb::LiveFileMetaData> files;
  db.GetLiveFilesMetaData(&files);
  std::set<std::string> live;
  for (const auto& file : files) live.insert(fs::path(file.name).filename());
  return logs.size() > 1 || !std::includes(live.begin(), live.end(), tables.begin(), tables.end());
}

absl::Status OpenTried(DatabaseWay way, const std::string& folder, ReadDatabase& read) {
  if (!HasDatabaseFiles(folder)) return Go(way, folder, read);
  // Where the file that names the others is gone, a new database would remove them.
  if (!Exists(folder + "/CURRENT")) {
    return absl::DataLossError(fmt::format("opening {}: CURRENT is missing", folder));
  }
  return TryAndGo(way, folder, read);
}

}  // namespace

absl::StatusOr<std::unique_ptr<rocksdb::DB>> OpenDatabase(const std::string& folder) {
  ReadDatabase read;
  TANDEM_RETURN_IF_ERROR(OpenTried(DatabaseWay::kOpened, folder, read));
  return std::move(read.db);
}

absl::StatusOr<CheckedDatabase> OpenCheckedDatabase(const std::string& folder) {
  const std::set<std::string> logs = FilesOf(folder, ".log");
  const std::set<std::string> tables = FilesOf(folder, ".sst");
  ReadDatabase read;
  TANDEM_RETURN_IF_ERROR(OpenTried(DatabaseWay::kChecked, folder, read));
  const bool strangers = HasStrangers(*read.db, logs, tables);
  return CheckedDatabase{.db = std::move(read.db), .strangers = strangers};
}

absl::StatusOr<ReadDatabase> ReadWhole(const std::string& folder, bool trusted) {
  ReadDatabase read;
  TANDEM_ASSIGN_OR_RETURN(read.moved, MakeWayForDatabase(folder));
  if (const absl::Status image = TakeImage(folder); !image.ok()) {
    if (HasImage(folder)) return image;
    spdlog::warn("{}: if {} is damaged, its files cannot be kept", Message(image), folder);
  }
  // Of an image that was gone back to.
  TANDEM_RETURN_IF_ERROR(MakeWayInFolder(folder).status());
  const std::set<std::string> logs = FilesOf(folder, ".log");
  const std::set<std::string> tables = FilesOf(folder, ".sst");
  absl::Status status;
  if (!trusted) {
    status = absl::DataLossError("files that its MANIFEST does not name have what it lacks");
  } else if (!Exists(folder + "/CURRENT") && HasDatabaseFiles(folder)) {
    status = absl::DataLossError("CURRENT is missing");
  } else {
    status = TryAndGo(DatabaseWay::kAsItIs, folder, read);
    if (absl::IsFailedPrecondition(status)) TANDEM_RETURN_IF_ERROR(DropImage(folder));
    if (!absl::IsDataLoss(status)) TANDEM_RETURN_IF_ERROR(status);
  }
  const bool whole = status.ok() && (read.damage.empty() || read.torn);
  if (whole && !HasStrangers(*read.db, logs, tables)) return read;
  if (!status.ok()) {
    if (read.damage.empty()) read.damage = Message(status);
    status = TryAndGo(DatabaseWay::kRepaired, folder, read);
    if (absl::IsDataLoss(status)) {
      spdlog::error("{}: {}; each file is read by itself", folder, Message(status));
      status = ReadEachAlone(folder, read);
    }
    TANDEM_RETURN_IF_ERROR(status);
  }
  spdlog::info("{}: what was read is written into a new database", folder);
  TANDEM_RETURN_IF_ERROR(WriteAnew(folder, read));
  return read;
}

absl::StatusOr<ReadDatabase> LookIntoDatabase(const std::string& folder) {
  TANDEM_RETURN_IF_ERROR(CheckOwnTree(folder));
  if (!Exists(folder + "/CURRENT")) {
    return NotFound("{}: there are no conversations", folder);
  }
  if (!Survives(DatabaseWay::kLook, folder)) {
    return absl::DataLossError(fmt::format("{}: {}", folder, kDeadly));
  }
  absl::Status last;
  for (int attempt = 0; attempt < kLooks; ++attempt) {
    if (attempt > 0) std::this_thread::sleep_for(kBetweenLooks);
    ReadDatabase read;
    last = Go(DatabaseWay::kLook, folder, read);
    if (last.ok()) return read;
  }
  return last;
}

absl::Status EraseRanges(rocksdb::DB& db, const std::string& folder,
                         const std::vector<std::pair<std::string, std::string>>& ranges) {
  const std::set<std::string> logs = FilesOf(folder, ".log");
  const std::set<std::string> tables = FilesOf(folder, ".sst");
  rocksdb::FlushOptions flush;
  flush.wait = true;
  TANDEM_RETURN_IF_ERROR(FromDatabase(db.Flush(flush), "flushing"));
  rocksdb::CompactRangeOptions options;
  options.exclusive_manual_compaction = false;
  options.bottommost_level_compaction = rocksdb::BottommostLevelCompaction::kForce;
  for (const auto& [from, to] : ranges) {
    const rocksdb::Slice begin(from);
    const rocksdb::Slice end(to);
    TANDEM_RETURN_IF_ERROR(FromDatabase(db.CompactRange(options, &begin, &end), "compacting"));
  }
  // Makes it look for files of earlier processes, too.
  TANDEM_RETURN_IF_ERROR(FromDatabase(db.DisableFileDeletions(), "removing files"));
  TANDEM_RETURN_IF_ERROR(FromDatabase(db.EnableFileDeletions(/*force=*/true), "removing files"));
  const auto end = std::chrono::steady_clock::now() + kDeletionTime;
  while (true) {
    std::vector<rocksdb::LiveFileMetaData> files;
    db.GetLiveFilesMetaData(&files);
    std::set<std::string> live;
    for (const auto& file : files) live.insert(fs::path(file.name).filename());
    const std::string left = FileLeft(folder, logs, {}) + FileLeft(folder, tables, live);
    if (left.empty()) return absl::OkStatus();
    if (std::chrono::steady_clock::now() > end) {
      return Unavailable("{}: {}, which holds deleted text, is still there", folder, left);
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
}

}  // namespace tandem::kv_store
