#include "kv_store/journal/database_watch.h"

#include <rocksdb/db.h>

#include <set>
#include <utility>
#include <vector>

#include "kv_store/base/files.h"
#include "kv_store/journal/conversation_database.h"

namespace tandem::kv_store {
namespace {

constexpr std::string_view kCurrent = "CURRENT";

absl::Status IsNotOurs(const std::string& path, std::string_view what) {
  return absl::DataLossError(fmt::format("{} {}", path, what));
}

bool IsManifest(std::string_view name) { return name.starts_with("MANIFEST-"); }

}  // namespace

DatabaseWatch::DatabaseWatch(std::string folder) : folder_(std::move(folder)) {
  if (const auto facts = FactsAt(folder_); facts.ok()) at_ = *facts;
}

absl::Status DatabaseWatch::CheckFile(const std::string& name, bool grows) {
  const std::string path = folder_ + "/" + name;
  const auto now = FactsAt(path);
  if (absl::IsNotFound(now.status())) return IsNotOurs(path, "is gone");
  TANDEM_RETURN_IF_ERROR(now.status());
  const auto [entry, is_new] = seen_.try_emplace(name, *now);
  FileFacts& before = entry->second;
  if (!before.IsSameFile(*now)) return IsNotOurs(path, "was replaced");
  if (now->bytes < before.bytes) return IsNotOurs(path, "was cut");
  if (!grows && now->bytes != before.bytes) return IsNotOurs(path, "was written to");
  before = *now;
  return absl::OkStatus();
}

absl::Status DatabaseWatch::CheckFiles(rocksdb::DB& db) {
  std::vector<std::string> live;
  uint64_t manifest_bytes = 0;
  const rocksdb::Status listed = db.GetLiveFiles(live, &manifest_bytes, /*flush_memtable=*/false);
  TANDEM_RETURN_IF_ERROR(FromDatabase(listed, "asking which files there are in " + folder_));
  std::string manifest;
  std::set<std::string> names;
  for (const std::string& path : live) {
    const std::string name = path.substr(path.find_first_not_of('/'));
    if (IsManifest(name)) manifest = name;
    if (IsManifest(name) || name.ends_with(".sst")) names.insert(name);
  }
  std::unique_ptr<rocksdb::LogFile> log;
  const rocksdb::Status found = db.GetCurrentWalFile(&log);
  if (found.IsIOError() || found.IsPathNotFound() || found.IsNotFound()) {
    return IsNotOurs(folder_, "has not its log any more");
  }
  TANDEM_RETURN_IF_ERROR(FromDatabase(found, "asking for the log of " + folder_));
  names.insert(log->PathName().substr(log->PathName().find_first_not_of('/')));
  std::erase_if(seen_, [&](const auto& one) { return !names.contains(one.first); });
  for (const std::string& name : names) {
    TANDEM_RETURN_IF_ERROR(CheckFile(name, /*grows=*/!name.ends_with(".sst")));
  }
  // It is replaced by RocksDB itself, too.
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
  // A file may go between the question which there are and the look at it; then it is none of them
  // any more.
  constexpr int kLooks = 3;
  absl::Status status;
  for (int look = 0; look < kLooks; ++look) {
    status = CheckFiles(db);
    if (!absl::IsDataLoss(status)) break;
  }
  return status;
}

void CloseGently(std::unique_ptr<rocksdb::DB> db) {
  if (db != nullptr) static_cast<void>(db->DisableFileDeletions());
}

}  // namespace tandem::kv_store
