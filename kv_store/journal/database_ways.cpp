#include "kv_store/journal/database_ways.h"

#include <rocksdb/db.h>

#include <array>
#include <utility>

#include "kv_store/base/database_log.h"
#include "kv_store/base/files.h"
#include "kv_store/journal/database_trial.h"

namespace tandem::kv_store {
namespace {

constexpr size_t kMemtableBytes = size_t{8} << 20;

/// Names of ways on the command line of a trial.
constexpr std::array<std::pair<std::string_view, DatabaseWay>, 7> kWays = {
    {{"opened", DatabaseWay::kOpened},
     {"if-there", DatabaseWay::kIfThere},
     {"checked", DatabaseWay::kChecked},
     {"as-it-is", DatabaseWay::kAsItIs},
     {"repaired", DatabaseWay::kRepaired},
     {"look", DatabaseWay::kLook},
     {"unchecked", DatabaseWay::kUnchecked}}};

std::string NameOf(DatabaseWay way) {
  for (const auto& [name, one] : kWays) {
    if (one == way) return std::string(name);
  }
  return "";
}

std::optional<DatabaseWay> WayOf(std::string_view name) {
  for (const auto& [known, way] : kWays) {
    if (known == name) return way;
  }
  return std::nullopt;
}

/// Whether the files themselves keep the database from being opened, and will every time.
bool IsDamage(const rocksdb::Status& status) {
  return status.IsCorruption() || status.IsPathNotFound() || status.IsNotFound() ||
         status.IsInvalidArgument() || status.IsNotSupported() || status.IsIncomplete();
}

/// One that goes a way.
struct Goer {
  std::string folder;
  rocksdb::Options options;
  bool is_trial = false;

  absl::Status Go(DatabaseWay way, ReadDatabase& read) const;

 private:
  absl::Status Open(const rocksdb::Options& with, ReadDatabase& read) const;
  absl::Status OpenIfThere(ReadDatabase& read) const;
  absl::Status OpenAndCheck(ReadDatabase& read) const;
  absl::Status ReadAsItIs(ReadDatabase& read) const;
  absl::Status ReadRepaired(ReadDatabase& read) const;
  absl::Status ReadUnchecked(ReadDatabase& read) const;
  absl::Status Look(ReadDatabase& read) const;
  void ReadAllOf(ReadDatabase& read) const;
};

absl::Status Goer::Go(DatabaseWay way, ReadDatabase& read) const {
  switch (way) {
    case DatabaseWay::kOpened:
      return Open(options, read);
    case DatabaseWay::kIfThere:
      return OpenIfThere(read);
    case DatabaseWay::kChecked:
      return OpenAndCheck(read);
    case DatabaseWay::kAsItIs:
      return ReadAsItIs(read);
    case DatabaseWay::kRepaired:
      return ReadRepaired(read);
    case DatabaseWay::kLook:
      return Look(read);
    case DatabaseWay::kUnchecked:
      return ReadUnchecked(read);
  }
  return absl::InternalError("no such way");
}

absl::Status Goer::Open(const rocksdb::Options& with, ReadDatabase& read) const {
  TANDEM_ASSIGN_OR_RETURN(read.db, OpenWith(with, folder));
  return absl::OkStatus();
}

absl::Status Goer::OpenIfThere(ReadDatabase& read) const {
  rocksdb::Options with = options;
  with.create_if_missing = false;
  return Open(with, read);
}

absl::Status Goer::OpenAndCheck(ReadDatabase& read) const {
  TANDEM_RETURN_IF_ERROR(Open(options, read));
  const std::string checking = "checking " + folder;
  TANDEM_RETURN_IF_ERROR(FromDatabase(read.db->VerifyChecksum(), checking));
  rocksdb::ReadOptions reading;
  reading.fill_cache = false;
  const std::unique_ptr<rocksdb::Iterator> iterator(read.db->NewIterator(reading));
  iterator->SeekToFirst();
  while (iterator->Valid()) iterator->Next();
  return FromDatabase(iterator->status(), checking);
}

/// Reads all that can be read of what is open.
void Goer::ReadAllOf(ReadDatabase& read) const {
  const rocksdb::Status damage = DatabaseScan(*read.db, /*check=*/true).Strictly(read.records);
  if (damage.ok()) return;
  read.torn = false;
  read.damage +=
      fmt::format("{}a table is damaged ({})", read.damage.empty() ? "" : "; ", damage.ToString());
  read.records.clear();
  // A block whose checksum is wrong may have whole records all the same, and may end the process.
  const bool check = is_trial || !Survives(DatabaseWay::kUnchecked, folder);
  read.gaps = DatabaseScan(*read.db, check).Leniently(read.records);
}

absl::Status Goer::ReadAsItIs(ReadDatabase& read) const {
  rocksdb::Options with = options;
  // First so that any damage of the log is seen.
  with.wal_recovery_mode = rocksdb::WALRecoveryMode::kAbsoluteConsistency;
  auto db = OpenWith(with, folder);
  if (absl::IsDataLoss(db.status())) {
    read.damage = Message(db.status());
    with.wal_recovery_mode = rocksdb::WALRecoveryMode::kSkipAnyCorruptedRecords;
    db = OpenWith(with, folder);
    read.torn = db.ok();
  }
  TANDEM_RETURN_IF_ERROR(db.status());
  read.db = *std::move(db);
  ReadAllOf(read);
  return absl::OkStatus();
}

absl::Status Goer::ReadRepaired(ReadDatabase& read) const {
  rocksdb::Options with = options;
  TANDEM_RETURN_IF_ERROR(Remove(folder + "/CURRENT"));
  with.wal_recovery_mode = rocksdb::WALRecoveryMode::kSkipAnyCorruptedRecords;
  with.disable_auto_compactions = true;
  with.env = UnsyncedEnv();  // what it makes is written anew
  const rocksdb::Status repaired = rocksdb::RepairDB(folder, with);
  if (!repaired.ok() && !repaired.IsNoSpace()) return absl::DataLossError(repaired.ToString());
  TANDEM_RETURN_IF_ERROR(FromDatabase(repaired, "repairing " + folder));
  TANDEM_ASSIGN_OR_RETURN(read.db, OpenWith(with, folder));
  ReadAllOf(read);
  return absl::OkStatus();
}

absl::Status Goer::ReadUnchecked(ReadDatabase& read) const {
  rocksdb::Options with = options;
  with.wal_recovery_mode = rocksdb::WALRecoveryMode::kSkipAnyCorruptedRecords;
  TANDEM_ASSIGN_OR_RETURN(read.db, OpenWith(with, folder));
  read.gaps = DatabaseScan(*read.db, /*check=*/false).Leniently(read.records);
  return absl::OkStatus();
}

/// Files come and go while the other process writes; then it fails.
absl::Status Goer::Look(ReadDatabase& read) const {
  rocksdb::Options with = options;
  with.create_if_missing = false;
  with.max_open_files = -1;  // files that the other process removes meanwhile stay open here
  rocksdb::DB* db = nullptr;
  const rocksdb::Status status = rocksdb::DB::OpenForReadOnly(with, folder, &db);
  read.db.reset(db);
  if (!status.ok()) return FromDatabase(status, "reading " + folder);
  read.gaps = DatabaseScan(*read.db, true).Leniently(read.records);
  return absl::OkStatus();
}

}  // namespace

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

absl::Status FromDatabase(const rocksdb::Status& status, std::string_view doing) {
  if (status.ok()) return absl::OkStatus();
  const std::string text = fmt::format("{}: {}", doing, status.ToString());
  if (status.IsNoSpace()) return absl::ResourceExhaustedError(text);
  if (status.IsCorruption()) return absl::DataLossError(text);
  return absl::UnavailableError(text);
}

absl::Status Go(DatabaseWay way, const std::string& folder, ReadDatabase& read) {
  return Goer{.folder = folder, .options = DatabaseOptions(folder)}.Go(way, read);
}

bool Survives(DatabaseWay way, const std::string& folder) {
  const auto survives = [way](const std::string& files) {
    return TrialSurvives({NameOf(way), files});
  };
  return way == DatabaseWay::kLook ? survives(folder) : SurvivesFiles(folder, survives);
}

absl::Status TryAndGo(DatabaseWay way, const std::string& folder, ReadDatabase& read) {
  if (Survives(way, folder)) return Go(way, folder, read);
  return absl::DataLossError(kDeadly);
}

std::optional<int> RunDatabaseTrial(std::span<const char* const> words) {
  const auto trial = TrialOf(words);
  if (!trial) return std::nullopt;
  const auto way = trial->size() == 2 ? WayOf(trial->front()) : std::nullopt;
  if (!way) return kNoTrial;
  const std::string folder(trial->back());
  Goer goer{.folder = folder, .options = DatabaseOptions(folder), .is_trial = true};
  goer.options.disable_auto_compactions = true;
  if (way != DatabaseWay::kLook) goer.options.env = UnsyncedEnv();
  ReadDatabase read;
  static_cast<void>(goer.Go(*way, read));
  EndTrial();
}

}  // namespace tandem::kv_store
