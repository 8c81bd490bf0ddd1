#include "kv_store/journal/journal_copies.h"

#include <rocksdb/db.h>
#include <rocksdb/write_batch.h>
#include <spdlog/spdlog.h>

#include <filesystem>
#include <utility>

#include "kv_store/base/files.h"
#include "kv_store/journal/database_image.h"

namespace tandem::kv_store {
namespace {

namespace fs = std::filesystem;

constexpr const char* kNew = ".new";
constexpr const char* kOld = ".old";

rocksdb::WriteOptions Synced() {
  rocksdb::WriteOptions options;
  options.sync = true;
  return options;
}

}  // namespace

JournalCopies::JournalCopies(Options options) : options_(std::move(options)) {
  if (const absl::Status way = MakeWay(options_.folder, FileKind::kFolder); !way.ok()) {
    spdlog::error("{}", Message(way));
  }
  std::vector<std::string> names;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(options_.folder, error)) {
    names.push_back(entry.path().string());
  }
  for (const std::string& name : names) {
    const fs::path whole = fs::path(name).replace_extension();
    if (!ParseStateId(whole.filename().string())) continue;
    absl::Status status;
    const bool unfinished = name.ends_with(kNew) || name.ends_with(kTrialFolder);
    if (unfinished || name.ends_with(kOld)) status = MakeWay(name, FileKind::kFolder);
    if (status.ok() && unfinished) status = Remove(name);
    if (status.ok() && name.ends_with(kOld)) {
      // The crash came between two renames, or behind both.
      status = Exists(whole) ? Remove(name) : Rename(name, whole);
    }
    if (!status.ok()) spdlog::warn("{}", Message(status));
  }
}

JournalCopies::~JournalCopies() {
  const MutexLock lock(mutex_);
  std::vector<StateId> states;
  for (const auto& [state, copy] : open_) states.push_back(state);
  for (const StateId& state : states) static_cast<void>(CheckInPlace(state));
}

std::string JournalCopies::FolderOf(const StateId& state) const {
  return options_.folder + "/" + StateIdText(state);
}

absl::Status JournalCopies::CheckInPlace(const StateId& state) {
  const auto found = open_.find(state);
  if (found == open_.end()) return absl::OkStatus();
  absl::Status status = found->second.watch.Check(*found->second.db);
  if (!absl::IsDataLoss(status)) return status;
  spdlog::error("a copy of conversations: {}; what is there now is the copy", Message(status));
  CloseGently(std::move(found->second.db));
  open_.erase(found);
  return status;
}

absl::StatusOr<JournalCopies::Copy*> JournalCopies::Open(const StateId& state) {
  const absl::Status in_place = CheckInPlace(state);
  if (!absl::IsDataLoss(in_place)) TANDEM_RETURN_IF_ERROR(in_place);
  if (const auto found = open_.find(state); found != open_.end()) return &found->second;
  const std::string folder = FolderOf(state);
  TANDEM_RETURN_IF_ERROR(MakeWay(folder, FileKind::kFolder));
  if (!Exists(folder)) return NotFound("{}: there is no such copy", folder);
  TANDEM_RETURN_IF_ERROR(MakeWayInFolder(folder).status());
  TANDEM_ASSIGN_OR_RETURN(CheckedDatabase checked, OpenCheckedDatabase(folder));
  if (checked.strangers) TANDEM_RETURN_IF_ERROR(Renew(state, checked));
  DatabaseWatch watch(folder, *checked.db);
  Copy copy{.db = std::move(checked.db), .watch = std::move(watch), .position = {}};
  std::string record;
  const rocksdb::Status got = copy.db->Get({}, rocksdb::Slice(kPositionPlace), &record);
  if (got.IsNotFound()) {
    return absl::DataLossError(folder + ": it does not say how far it is");
  }
  TANDEM_RETURN_IF_ERROR(FromDatabase(got, "reading " + folder));
  TANDEM_ASSIGN_OR_RETURN(copy.position, DecodePosition(record));
  const rocksdb::Status identity = copy.db->Get({}, rocksdb::Slice(kIdentityPlace), &record);
  if (!identity.IsNotFound()) TANDEM_RETURN_IF_ERROR(FromDatabase(identity, "reading " + folder));
  copy.fence = identity.IsNotFound();
  return &open_.insert_or_assign(state, std::move(copy)).first->second;
}

absl::StatusOr<JournalCopies::Copy*> JournalCopies::OpenWhole(const StateId& state) {
  auto copy = Open(state);
  if (absl::IsDataLoss(copy.status())) return NotFound("{}", Message(copy.status()));
  if (copy.ok() && (*copy)->fence) {
    return NotFound("{}: another host went on from there; it is no copy", FolderOf(state));
  }
  return copy;
}

std::vector<JournalCopy> JournalCopies::List() {
  const MutexLock lock(mutex_);
  std::vector<JournalCopy> copies;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(options_.folder, error)) {
    const auto state = ParseStateId(entry.path().filename().string());
    if (!state) continue;
    JournalCopy copy;
    copy.state = *state;
    copy.condition = JournalCopy::Condition::kDamaged;
    const auto heard = heard_.find(*state);
    copy.attended = heard != heard_.end() && Clock::now() - heard->second < options_.attention;
    const auto opened = Open(*state);
    if (opened.ok()) {
      copy.position = (*opened)->position;
      copy.condition =
          (*opened)->fence ? JournalCopy::Condition::kFence : JournalCopy::Condition::kWhole;
    } else {
      spdlog::error("a copy of conversations cannot be read: {}", Message(opened.status()));
    }
    copies.push_back(std::move(copy));
  }
  return copies;
}

absl::StatusOr<JournalPosition> JournalCopies::Append(const StateId& state,
                                                      std::span<const JournalEntry> entries) {
  const MutexLock lock(mutex_);
  TANDEM_ASSIGN_OR_RETURN(Copy* const copy, OpenWhole(state));
  heard_[state] = Clock::now();
  rocksdb::WriteBatch batch;
  JournalPosition position = copy->position;
  for (const JournalEntry& entry : entries) {
    if (position.Contains(entry.at)) continue;
    if (entry.at.sequence != position.sequence + 1 || !entry.at.Contains(position)) break;
    AddTo(batch, entry);
    position = entry.at;
  }
  if (position == copy->position) return position;
  const rocksdb::Status written = copy->db->Write(Synced(), &batch);
  if (!written.ok()) {
    open_.erase(state);  // opened again, it says where it is
    return FromDatabase(written, "writing to " + FolderOf(state));
  }
  copy->position = position;
  // What is not where the next process looks for it is no copy.
  const absl::Status in_place = CheckInPlace(state);
  if (absl::IsDataLoss(in_place)) return NotFound("{}", Message(in_place));
  TANDEM_RETURN_IF_ERROR(in_place);
  return position;
}

absl::StatusOr<std::unique_ptr<rocksdb::DB>> JournalCopies::MakeAnew(const StateId& state) {
  const std::string folder = FolderOf(state) + kNew;
  incoming_.erase(state);
  TANDEM_RETURN_IF_ERROR(MakeWay(folder, FileKind::kFolder));
  TANDEM_RETURN_IF_ERROR(Remove(folder));
  std::error_code error;
  fs::create_directories(options_.folder, error);
  if (error) return Unavailable("{}: {}", options_.folder, error.message());
  return OpenDatabase(folder);
}

absl::Status JournalCopies::Replace(const StateId& state, bool aside) {
  const std::string folder = FolderOf(state);
  open_.erase(state);
  if (Exists(folder)) {
    const std::string away = aside ? FreeName(folder, "aside") : folder + kOld;
    if (aside)
      spdlog::warn("{} is replaced by one that has not all of it; it is kept in {}", folder, away);
    TANDEM_RETURN_IF_ERROR(Rename(folder, away));
  }
  TANDEM_RETURN_IF_ERROR(Rename(folder + kNew, folder));
  TANDEM_RETURN_IF_ERROR(SyncFolder(options_.folder));
  return Remove(folder + kOld);
}

absl::Status JournalCopies::Renew(const StateId& state, CheckedDatabase& checked) {
  const std::string folder = FolderOf(state);
  TANDEM_ASSIGN_OR_RETURN(const auto records, ReadStrictly(*checked.db));
  {
    TANDEM_ASSIGN_OR_RETURN(const auto db, MakeAnew(state));
    TANDEM_RETURN_IF_ERROR(WriteAll(*db, records));
  }
  checked.db.reset();
  TANDEM_RETURN_IF_ERROR(Replace(state, /*aside=*/false));
  spdlog::info("{}: what was read is written into a new database", folder);
  TANDEM_ASSIGN_OR_RETURN(checked.db, OpenDatabase(folder));
  return absl::OkStatus();
}

absl::Status JournalCopies::CheckNothingIsLost(const StateId& state, const JournalPart& part,
                                               bool& aside) {
  const auto before = Open(state);
  aside = before.ok() && !part.at.Contains((*before)->position);
  if (!aside || part.overwrite) return absl::OkStatus();
  return FailedPrecondition("{}: the copy has what its database has not: another server went on",
                            FolderOf(state));
}

absl::Status JournalCopies::Take(const StateId& state, const JournalPart& part) {
  const MutexLock lock(mutex_);
  bool aside = false;
  TANDEM_RETURN_IF_ERROR(CheckNothingIsLost(state, part, aside));
  heard_[state] = Clock::now();
  if (part.number == 0) {
    TANDEM_ASSIGN_OR_RETURN(auto db, MakeAnew(state));
    incoming_[state] = {.session = part.session, .next = 0, .db = std::move(db)};
  }
  const auto found = incoming_.find(state);
  if (found == incoming_.end() || found->second.session != part.session ||
      found->second.next != part.number) {
    return FailedPrecondition("{}: part {} of it does not follow on what came", FolderOf(state),
                              part.number);
  }
  Incoming& incoming = found->second;
  absl::Status status = WriteAll(*incoming.db, part.records);
  ++incoming.next;
  if (status.ok() && part.last) {
    std::string position;
    const bool whole = incoming.db->Get({}, rocksdb::Slice(kPositionPlace), &position).ok() &&
                       position == EncodePosition(part.at);
    status = whole ? FromDatabase(incoming.db->SyncWAL(), "syncing " + FolderOf(state))
                   : InvalidArgument("{}: what came is not what was to come", FolderOf(state));
    incoming_.erase(found);
    if (status.ok()) status = Replace(state, aside);
  } else if (!status.ok()) {
    incoming_.erase(found);
  }
  return status;
}

absl::StatusOr<JournalPage> JournalCopies::Read(const StateId& state, const std::string& behind) {
  const MutexLock lock(mutex_);
  TANDEM_ASSIGN_OR_RETURN(Copy* const copy, OpenWhole(state));
  JournalPage page{.at = copy->position, .more = false, .records = {}};
  rocksdb::ReadOptions options;
  options.fill_cache = false;
  const std::unique_ptr<rocksdb::Iterator> iterator(copy->db->NewIterator(options));
  size_t bytes = 0;
  iterator->Seek(behind);
  if (iterator->Valid() && !behind.empty() && iterator->key() == behind) iterator->Next();
  for (; iterator->Valid(); iterator->Next()) {
    page.more = bytes >= options_.page_bytes;
    if (page.more) break;
    page.records.push_back({iterator->key().ToString(), iterator->value().ToString()});
    bytes += page.records.back().place.size() + page.records.back().bytes.size();
  }
  TANDEM_RETURN_IF_ERROR(FromDatabase(iterator->status(), "reading " + FolderOf(state)));
  return page;
}

absl::Status JournalCopies::MakeFence(const StateId& state, const JournalPosition& at) {
  TANDEM_ASSIGN_OR_RETURN(auto db, MakeAnew(state));
  const rocksdb::Status put = db->Put(Synced(), rocksdb::Slice(kPositionPlace), EncodePosition(at));
  db.reset();
  TANDEM_RETURN_IF_ERROR(FromDatabase(put, "writing " + FolderOf(state)));
  return Replace(state, /*aside=*/false);
}

absl::Status JournalCopies::Erase(const StateId& state, const JournalPosition& at,
                                  std::span<const PlaceRange> ranges) {
  const MutexLock lock(mutex_);
  // What was on its way may have the text too.
  if (incoming_.erase(state) > 0) TANDEM_RETURN_IF_ERROR(Remove(FolderOf(state) + kNew));
  const auto copy = Open(state);
  if (absl::IsNotFound(copy.status())) return absl::OkStatus();
  if (absl::IsDataLoss(copy.status())) return MakeFence(state, at);
  TANDEM_RETURN_IF_ERROR(copy.status());
  Copy& open = **copy;
  if (open.fence) return absl::OkStatus();
  if (!open.position.Contains(at)) {
    if (at.Contains(open.position)) return MakeFence(state, open.position);
    return FailedPrecondition(
        "{}: another server went on with a copy, which keeps what is deleted here; remove that "
        "folder when nothing more is wanted from it",
        FolderOf(state));
  }
  // So that there is something to flush, and the log with the text in it goes.
  rocksdb::Status status =
      open.db->Put({}, rocksdb::Slice(kPositionPlace), EncodePosition(open.position));
  absl::Status erased = FromDatabase(status, "destroying in " + FolderOf(state));
  if (erased.ok()) erased = EraseRanges(*open.db, FolderOf(state), {ranges.begin(), ranges.end()});
  if (!erased.ok()) open_.erase(state);
  return erased;
}

absl::Status JournalCopies::Fence(const StateId& state, const JournalPosition& at) {
  const MutexLock lock(mutex_);
  const auto copy = Open(state);
  if (copy.ok() && !at.Contains((*copy)->position)) return absl::OkStatus();  // it is one itself
  if (copy.ok() && (*copy)->fence && (*copy)->position.branches == at.branches) {
    return absl::OkStatus();
  }
  if (!copy.ok() && !absl::IsNotFound(copy.status())) return copy.status();
  return MakeFence(state, at);
}

}  // namespace tandem::kv_store
