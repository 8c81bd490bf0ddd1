#include "kv_store/journal/conversation_database.h"

#include <rocksdb/db.h>
#include <rocksdb/write_batch.h>
#include <spdlog/spdlog.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <functional>
#include <limits>
#include <optional>
#include <set>
#include <thread>
#include <utility>

#include "kv_store/base/database_log.h"
#include "kv_store/base/files.h"
#include "kv_store/journal/database_image.h"

namespace tandem::kv_store {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMemtableBytes = size_t{8} << 20;
constexpr size_t kReadAhead = size_t{1} << 20;
constexpr size_t kBatchBytes = size_t{4} << 20;
constexpr auto kDeletionTime = std::chrono::seconds(5);
constexpr const char* kRenewed = ".new";
constexpr int kLooks = 10;
constexpr auto kBetweenLooks = std::chrono::milliseconds(50);
constexpr unsigned kTrialSeconds = 60;

rocksdb::Options DatabaseOptions(const std::string& folder) {
  rocksdb::Options options;
  options.info_log = MakeDatabaseLog(folder);
  options.manifest_preallocation_size = size_t{64} << 10;  // else 4 MiB of the disk
  options.create_if_missing = true;
  options.write_buffer_size = kMemtableBytes;
  options.compression = rocksdb::kNoCompression;  // a damaged byte stays one damaged byte
  options.allow_fallocate = false;  // on a small disk, what is reserved is missing elsewhere
  // A torn end of the log is what a loss of power leaves behind; anything else is put right openly.
  options.wal_recovery_mode = rocksdb::WALRecoveryMode::kTolerateCorruptedTailRecords;
  return options;
}

/// Whether this does not crash a process: RocksDB, as distributions build it, asserts much of what
/// it reads. `trial` must start no thread.
bool Survives(const std::function<void()>& trial) {
  const pid_t child = fork();
  if (child == 0) {
    const rlimit none{};
    (void)setrlimit(RLIMIT_CORE, &none);
    (void)std::signal(SIGABRT, SIG_DFL);
    alarm(kTrialSeconds);  // should another thread have held a lock
    trial();
    _exit(0);
  }
  int status = 0;
  while (child > 0 && waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  return child < 0 || !WIFSIGNALED(status) ||
         (WTERMSIG(status) != SIGABRT && WTERMSIG(status) != SIGSEGV);
}

/// Whether the files themselves keep the database from being opened, and will every time.
bool IsDamage(const rocksdb::Status& status) {
  return status.IsCorruption() || status.IsPathNotFound() || status.IsNotFound() ||
         status.IsInvalidArgument() || status.IsNotSupported() || status.IsIncomplete();
}

absl::StatusOr<std::unique_ptr<rocksdb::DB>> OpenWith(const rocksdb::Options& options,
                                                      const std::string& folder) {
  rocksdb::DB* db = nullptr;
  const rocksdb::Status status = rocksdb::DB::Open(options, folder, &db);
  std::unique_ptr<rocksdb::DB> owned(db);
  if (status.ok()) return owned;
  if (IsDamage(status)) {
    return absl::DataLossError(fmt::format("opening {}: {}", folder, status.ToString()));
  }
  if (status.IsIOError() && status.ToString().find("lock ") != std::string::npos) {
    return FailedPrecondition("{}: another process has these conversations open ({})", folder,
                              status.ToString());
  }
  return FromDatabase(status, "opening " + folder);
}

/// Reads all records in order; where they cannot be read, goes on behind.
class Scan {
 public:
  Scan(rocksdb::DB& db, bool check) {
    rocksdb::ReadOptions options;
    options.verify_checksums = check;
    options.fill_cache = false;
    options.readahead_size = kReadAhead;
    iterator_.reset(db.NewIterator(options));
    options.verify_checksums = true;
    checked_.reset(db.NewIterator(options));
  }

  /// Until the end, or the first damage.
  rocksdb::Status Strictly(std::vector<PlacedRecord>& records) {
    iterator_->SeekToFirst();
    Take(records);
    return iterator_->status();
  }

  /// Everything that can be read; how many gaps there were.
  int64_t Leniently(std::vector<PlacedRecord>& records) {
    int64_t gaps = 0;
    iterator_->SeekToFirst();
    for (Take(records); !iterator_->status().ok(); Take(records)) {
      ++gaps;
      if (!SkipDamage(records.empty() ? "" : records.back().place)) break;
    }
    return gaps;
  }

 private:
  void Take(std::vector<PlacedRecord>& records) {
    for (; iterator_->Valid(); iterator_->Next()) {
      records.push_back({iterator_->key().ToString(), iterator_->value().ToString()});
    }
  }

  /// Goes on at this place, if the block there is whole (or it is the end). In one that is not, a
  /// key may be damaged such that looking for another ends the process by an assertion of
  /// RocksDB's; so what lies behind a damaged key is lost up to the next block.
  bool Readable(const std::string& place) {
    checked_->Seek(place);
    if (!checked_->status().ok()) return false;
    iterator_->Seek(place);
    return iterator_->status().ok();
  }

  static std::string Behind(char kind, uint64_t hash) {
    std::string place(1, kind);
    for (int shift = 56; shift >= 0; shift -= 8) place.push_back(static_cast<char>(hash >> shift));
    return place;
  }

  /// Finds the next readable place behind the last good one: in steps that double, then back by
  /// halves. Places are hashes, so nothing tells where the next one lies.
  bool SkipDamage(const std::string& last) {
    const char kind = last.empty() ? '\0' : last[0];
    uint64_t begin = 0;
    for (size_t i = 1; i <= sizeof(begin); ++i) {
      begin = begin << 8 | (i < last.size() ? static_cast<uint8_t>(last[i]) : 0U);
    }
    constexpr uint64_t kMost = std::numeric_limits<uint64_t>::max();
    uint64_t step = 1;
    while (step <= (kMost - begin) / 2 && !Readable(Behind(kind, begin + step))) step *= 2;
    if (!Readable(Behind(kind, begin + step))) {
      for (int next = static_cast<uint8_t>(kind) + 1; next <= 'Z'; ++next) {
        if (Readable(std::string(1, static_cast<char>(next)))) return true;
      }
      return false;
    }
    uint64_t bad = begin + step / 2;
    uint64_t good = begin + step;
    while (good - bad > 1) {
      const uint64_t middle = bad + (good - bad) / 2;
      (Readable(Behind(kind, middle)) ? good : bad) = middle;
    }
    return Readable(Behind(kind, good));
  }

  std::unique_ptr<rocksdb::Iterator> iterator_;
  std::unique_ptr<rocksdb::Iterator> checked_;
};

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

absl::Status FromDatabase(const rocksdb::Status& status, std::string_view doing) {
  if (status.ok()) return absl::OkStatus();
  const std::string text = fmt::format("{}: {}", doing, status.ToString());
  if (status.IsNoSpace()) return absl::ResourceExhaustedError(text);
  if (status.IsCorruption()) return absl::DataLossError(text);
  return absl::UnavailableError(text);
}

namespace {

/// Makes a database of the tables and logs alone, without the files that say what belongs to it.
/// Where that cannot be done either, nothing is left in the folder.
absl::Status RepairFiles(const rocksdb::Options& options, const std::string& folder) {
  std::error_code error;
  fs::remove(folder + "/CURRENT", error);
  const rocksdb::Status repaired = rocksdb::RepairDB(folder, options);
  if (repaired.ok()) {
    rocksdb::DB* db = nullptr;
    const rocksdb::Status opened = rocksdb::DB::Open(options, folder, &db);
    const std::unique_ptr<rocksdb::DB> owned(db);
    if (opened.ok()) return Remove(folder + "/lost");  // the image has it
    spdlog::error("{}: {}", folder, opened.ToString());
  } else {
    spdlog::error("{}: {}", folder, repaired.ToString());
  }
  return DiscardFiles(folder);
}

}  // namespace

absl::StatusOr<std::vector<PlacedRecord>> ReadStrictly(rocksdb::DB& db) {
  std::vector<PlacedRecord> records;
  const rocksdb::Status status = Scan(db, /*check=*/true).Strictly(records);
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

absl::StatusOr<std::unique_ptr<rocksdb::DB>> OpenDatabase(const std::string& folder) {
  rocksdb::Options options = DatabaseOptions(folder);
  // Where the file that names the others is gone, a new database would remove them.
  if (!Exists(folder + "/CURRENT") && HasDatabaseFiles(folder)) {
    return absl::DataLossError(fmt::format("opening {}: CURRENT is missing", folder));
  }
  return OpenWith(options, folder);
}

namespace {

/// Takes away what ends a process that opens the database: logs that have records twice, say. The
/// image has them. False: nothing did.
absl::StatusOr<bool> DropDeadlyLogs(rocksdb::Options options, const std::string& folder) {
  const std::set<std::string> logs = FilesOf(folder, ".log");
  options.max_file_opening_threads = 1;
  const bool lives = logs.empty() || Survives([&] {
                       rocksdb::DB* db = nullptr;
                       if (rocksdb::DB::OpenForReadOnly(options, folder, &db).ok()) delete db;
                     });
  if (lives) return false;
  if (!HasImage(folder)) return Unavailable("{}: opening it ends the process", folder);
  for (const std::string& log : logs) {
    TANDEM_RETURN_IF_ERROR(Remove(fmt::format("{}/{}", folder, log)));
  }
  return true;
}

}  // namespace

absl::StatusOr<ReadDatabase> ReadWhole(const std::string& folder, bool trusted) {
  ReadDatabase read;
  TANDEM_ASSIGN_OR_RETURN(read.moved, MakeWayForDatabase(folder));
  if (const absl::Status image = TakeImage(folder); !image.ok()) {
    if (HasImage(folder)) return image;
    spdlog::warn("{}: if {} is damaged, its files cannot be kept", Message(image), folder);
  }
  // Of an image that was gone back to.
  TANDEM_RETURN_IF_ERROR(MakeWayInFolder(folder).status());
  rocksdb::Options options = DatabaseOptions(folder);
  absl::StatusOr<std::unique_ptr<rocksdb::DB>> db;
  TANDEM_ASSIGN_OR_RETURN(const bool deadly, DropDeadlyLogs(options, folder));
  if (deadly) {
    db = absl::DataLossError("a log cannot be read without ending the process");
  } else if (!trusted) {
    db = absl::DataLossError("MANIFEST has lost its end");
  } else if (!Exists(folder + "/CURRENT") && HasDatabaseFiles(folder)) {
    db = absl::DataLossError("CURRENT is missing");
  } else {
    // First so that any damage of the log is seen.
    options.wal_recovery_mode = rocksdb::WALRecoveryMode::kAbsoluteConsistency;
    db = OpenWith(options, folder);
    options.wal_recovery_mode = rocksdb::WALRecoveryMode::kSkipAnyCorruptedRecords;
    if (absl::IsDataLoss(db.status())) {
      read.damage = Message(db.status());
      db = OpenWith(options, folder);
      read.torn = db.ok();
    }
  }
  if (absl::IsDataLoss(db.status())) {
    if (read.damage.empty()) read.damage = Message(db.status());
    TANDEM_RETURN_IF_ERROR(RepairFiles(options, folder));
    db = OpenWith(options, folder);
  }
  if (absl::IsFailedPrecondition(db.status())) TANDEM_RETURN_IF_ERROR(DropImage(folder));
  TANDEM_RETURN_IF_ERROR(db.status());
  read.db = *std::move(db);
  const rocksdb::Status damage = Scan(*read.db, /*check=*/true).Strictly(read.records);
  if (damage.ok()) return read;

  read.torn = false;
  read.damage +=
      fmt::format("{}a table is damaged ({})", read.damage.empty() ? "" : "; ", damage.ToString());
  read.records.clear();
  // A block whose checksum is wrong may have whole records all the same, and may end the process.
  const bool check = !Survives([&] {
    std::vector<PlacedRecord> records;
    Scan(*read.db, /*check=*/false).Leniently(records);
  });
  read.gaps = Scan(*read.db, check).Leniently(read.records);
  const std::string renewed = folder + kRenewed;
  TANDEM_RETURN_IF_ERROR(Remove(renewed));
  TANDEM_ASSIGN_OR_RETURN(auto copy, OpenWith(options, renewed));
  TANDEM_RETURN_IF_ERROR(WriteAll(*copy, read.records));
  copy.reset();
  read.db.reset();
  TANDEM_RETURN_IF_ERROR(DiscardFiles(folder));
  TANDEM_RETURN_IF_ERROR(Rename(renewed, folder));
  TANDEM_ASSIGN_OR_RETURN(read.db, OpenWith(options, folder));
  return read;
}

absl::StatusOr<ReadDatabase> LookIntoDatabase(const std::string& folder) {
  TANDEM_RETURN_IF_ERROR(CheckOwnTree(folder));
  if (!Exists(folder + "/CURRENT")) {
    return NotFound("{}: there are no conversations", folder);
  }
  rocksdb::Options options = DatabaseOptions(folder);
  options.create_if_missing = false;
  options.max_open_files = -1;  // files that the other process removes meanwhile stay open here
  absl::Status last;
  for (int attempt = 0; attempt < kLooks; ++attempt) {
    if (attempt > 0) std::this_thread::sleep_for(kBetweenLooks);
    rocksdb::DB* db = nullptr;
    const rocksdb::Status status = rocksdb::DB::OpenForReadOnly(options, folder, &db);
    std::unique_ptr<rocksdb::DB> owned(db);
    if (!status.ok()) {
      // Files come and go while the other process writes.
      last = FromDatabase(status, "reading " + folder);
      continue;
    }
    ReadDatabase read;
    read.gaps = Scan(*owned, true).Leniently(read.records);
    read.db = std::move(owned);
    return read;
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
