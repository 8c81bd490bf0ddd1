#include "kv_store/journal/database_watch.h"

#include <rocksdb/db.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <utility>
#include <vector>

#include "kv_store/base/files.h"
#include "kv_store/journal/database_ways.h"

namespace tandem::kv_store {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kCurrent = "CURRENT";

absl::Status IsNotOurs(const std::string& path, std::string_view what) {
  return absl::DataLossError(fmt::format("{} {}", path, what));
}

/// Of a path as RocksDB gives it, from its folder.
std::string NameIn(const std::string& path) { return path.substr(path.find_first_not_of('/')); }

/// A symbolic link in a folder, empty if there is none. RocksDB makes none; no server opens one.
std::string LinkIn(const std::string& folder) {
  std::error_code error;
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end;
       entry.increment(error)) {
    if (entry->is_symlink(error)) return entry->path().string();
  }
  return "";
}

bool IsManifest(std::string_view name) { return name.starts_with("MANIFEST-"); }
bool IsTable(std::string_view name) { return name.ends_with(".sst"); }

}  // namespace

DatabaseWatch::DatabaseWatch(std::string folder, rocksdb::DB& db) : folder_(std::move(folder)) {
  if (const auto facts = FactsAt(folder_); facts.ok()) at_ = *facts;
  std::string wrong;
  static_cast<void>(CheckFiles(db, wrong));  // notes what there is
}

absl::Status DatabaseWatch::CheckFile(const std::string& name, uint64_t least) {
  const std::string path = folder_ + "/" + name;
  const auto now = FactsAt(path);
  if (absl::IsNotFound(now.status())) return IsNotOurs(path, "is gone");
  TANDEM_RETURN_IF_ERROR(now.status());
  if (!seen_.contains(name)) {
    if (open_.empty()) open_ = FactsOfOpenFiles();
    const auto is_it = [&](const FileFacts& open) { return open.IsSameFile(*now); };
    if (std::none_of(open_.begin(), open_.end(), is_it)) return IsNotOurs(path, "was replaced");
  }
  FileFacts& before = seen_.try_emplace(name, *now).first->second;
  if (!before.IsSameFile(*now)) return IsNotOurs(path, "was replaced");
  const auto bytes = static_cast<uint64_t>(now->bytes);
  if (now->bytes < before.bytes || bytes < least) return IsNotOurs(path, "was cut");
  if (IsTable(name) && bytes > least) return IsNotOurs(path, "was written to");
  before = *now;
  return absl::OkStatus();
}

absl::Status DatabaseWatch::CheckFiles(rocksdb::DB& db, std::string& wrong) {
  open_.clear();
  std::vector<std::string> live;
  uint64_t manifest_bytes = 0;
  const rocksdb::Status listed = db.GetLiveFiles(live, &manifest_bytes, /*flush_memtable=*/false);
  TANDEM_RETURN_IF_ERROR(FromDatabase(listed, "asking which files there are in " + folder_));
  std::map<std::string, uint64_t> files;  // and bytes that they have for sure
  std::string manifest;
  for (const std::string& path : live) {
    if (IsManifest(NameIn(path))) manifest = NameIn(path);
  }
  files[manifest] = manifest_bytes;
  std::vector<rocksdb::LiveFileMetaData> tables;
  db.GetLiveFilesMetaData(&tables);
  for (const auto& table : tables) files[NameIn(table.name)] = table.size;
  wrong = "its log";
  std::unique_ptr<rocksdb::LogFile> log;
  const rocksdb::Status found = db.GetCurrentWalFile(&log);
  if (found.IsPathNotFound() || found.IsNotFound()) return IsNotOurs(folder_, "has lost its log");
  TANDEM_RETURN_IF_ERROR(FromDatabase(found, "asking for the log of " + folder_));
  files[NameIn(log->PathName())] = 0;
  std::erase_if(seen_, [&](const auto& one) { return !files.contains(one.first); });
  for (const auto& [name, least] : files) {
    wrong = name;
    TANDEM_RETURN_IF_ERROR(CheckFile(name, least));
  }
  // RocksDB replaces it, too.
  wrong = kCurrent;
  const std::string current = fmt::format("{}/{}", folder_, kCurrent);
  const auto named = ReadSmallFile(current);
  if (absl::IsNotFound(named.status())) return IsNotOurs(current, "is gone");
  TANDEM_RETURN_IF_ERROR(named.status());
  return *named == manifest + "\n" ? absl::OkStatus() : IsNotOurs(current, "was replaced");
}

absl::Status DatabaseWatch::Check(rocksdb::DB& db) {
  const auto now = FactsAt(folder_);
  if (absl::IsNotFound(now.status())) return IsNotOurs(folder_, "is gone");
  TANDEM_RETURN_IF_ERROR(now.status());
  if (!at_ || !at_->IsSameFile(*now)) return IsNotOurs(folder_, "was replaced");
  if (const std::string link = LinkIn(folder_); !link.empty()) {
    return IsNotOurs(link, "was replaced by a link");
  }
  // RocksDB may have removed a file after it said that there is one: it says so no more.
  std::string wrong;
  std::string wrong_before;
  absl::Status status;
  do {
    wrong_before = wrong;
    status = CheckFiles(db, wrong);
  } while (absl::IsDataLoss(status) && wrong != wrong_before);
  return status;
}

void CloseGently(std::unique_ptr<rocksdb::DB> db) {
  if (db != nullptr) static_cast<void>(db->DisableFileDeletions());
}

}  // namespace tandem::kv_store
