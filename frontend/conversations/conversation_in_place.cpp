#include <rocksdb/db.h>
#include <spdlog/spdlog.h>

#include <utility>

#include "frontend/conversations/conversation_store.h"
#include "kv_store/base/files.h"

/// Whether what a store has written is where the next process looks for it, and how it is put
/// there.
namespace tandem::frontend {

ConversationStore::~ConversationStore() {
  const WriterMutexLock lock(db_mutex_);
  const MutexLock commit_lock(commit_mutex_);
  if (db_ == nullptr) return;
  const bool ours = (!options_.hold || options_.hold().ok()) && watch_.Check(*db_).ok();
  if (!ours) kv_store::CloseGently(std::move(db_));
}

void ConversationStore::Tell(std::string what) {
  spdlog::error("{}", what);
  told_ += (told_.empty() ? "" : "; ") + std::move(what);
}

std::string ConversationStore::TakeTold() {
  const MutexLock lock(commit_mutex_);
  return std::exchange(told_, "");
}

absl::Status ConversationStore::Hold() {
  if (!options_.hold) return absl::OkStatus();
  TANDEM_ASSIGN_OR_RETURN(std::string happened, options_.hold());
  if (!happened.empty()) Tell(std::move(happened));
  return absl::OkStatus();
}

absl::Status ConversationStore::KeepWitness() {
  if (witness_ == nullptr) return absl::OkStatus();  // the next write makes one
  absl::Status status = witness_->CheckInPlace();
  if (!absl::IsDataLoss(status)) return status;
  const std::string path = WitnessPath(options_.folder);
  std::string aside;
  if (kv_store::Exists(path)) {
    aside = kv_store::FreeName(path, "aside");
    TANDEM_RETURN_IF_ERROR(kv_store::Rename(path, aside));
  }
  witness_.reset();
  TANDEM_RETURN_IF_ERROR(Witness({}));
  Tell(fmt::format("{} while the server ran; it is made anew{}", Message(status),
                   aside.empty() ? "" : ", and what was in its place is kept in " + aside));
  return absl::OkStatus();
}

absl::Status ConversationStore::Check() {
  const MutexLock lock(commit_mutex_);
  TANDEM_RETURN_IF_ERROR(Hold());
  TANDEM_RETURN_IF_ERROR(watch_.Check(*db_));
  return KeepWitness();
}

absl::Status ConversationStore::CheckInPlace() {
  const ReaderMutexLock lock(db_mutex_);
  if (db_ == nullptr) return Unavailable("{} is not open", options_.folder);
  return Check();
}

absl::Status ConversationStore::Rescue(const absl::Status& why) {
  auto records = kv_store::ReadStrictly(*db_);
  if (records.ok()) {
    rescued_ = *std::move(records);
    return absl::OkStatus();
  }
  return absl::DataLossError(fmt::format(
      "{}, and what was in it can no longer be read ({}): start the server again, which tells what "
      "is lost",
      Message(why), Message(records.status())));
}

absl::Status ConversationStore::GoOnBehind(rocksdb::DB& db) {
  std::string record;
  const rocksdb::Status got = db.Get({}, rocksdb::Slice(kv_store::kPositionPlace), &record);
  const auto position = kv_store::DecodePosition(got.ok() ? record : "");
  // What failed may be there all the same.
  if (!position.ok() || !position->Contains(position_)) {
    return absl::DataLossError(
        fmt::format("{}: changes that were written are missing", options_.folder));
  }
  position_ = *position;
  return absl::OkStatus();
}

absl::Status ConversationStore::OpenAgain() {
  TANDEM_ASSIGN_OR_RETURN(auto opened, kv_store::OpenInPlace(options_.folder));
  absl::Status status = GoOnBehind(*opened);
  if (status.ok()) {
    db_ = std::move(opened);
  } else {
    kv_store::CloseGently(std::move(opened));
  }
  return status;
}

absl::Status ConversationStore::WriteAnew(const absl::Status& why) {
  if (rescued_.empty()) {
    return absl::DataLossError(
        fmt::format("{}: start the server again, which tells what is lost", Message(why)));
  }
  // First, so that whoever ends in between leaves a witness that tells what is missing.
  TANDEM_RETURN_IF_ERROR(KeepWitness());
  if (happened_.empty()) happened_ = Message(why);
  TANDEM_RETURN_IF_ERROR(kv_store::PutInPlace(options_.folder, rescued_, db_, aside_));
  absl::Status status = GoOnBehind(*db_);
  if (!status.ok()) kv_store::CloseGently(std::move(db_));
  return status;
}

void ConversationStore::TellWhatHappened() {
  if (happened_.empty()) return;
  Tell(fmt::format(
      "{} while the server ran; all that was said is written anew{}", happened_,
      aside_.empty() ? ""
                     : fmt::format(", and what was in its place is kept in {}, perhaps with what "
                                   "had been deleted: remove it when nothing more is wanted of it",
                                   aside_)));
  happened_.clear();
  aside_.clear();
}

absl::Status ConversationStore::Recover() {
  absl::Status placed;
  {
    const ReaderMutexLock lock(db_mutex_);
    {
      const MutexLock commit_lock(commit_mutex_);
      TANDEM_RETURN_IF_ERROR(Hold());
      if (db_ != nullptr) placed = watch_.Check(*db_);
    }
    if (!absl::IsDataLoss(placed) && db_ != nullptr && db_->Resume().ok()) {
      const MutexLock commit_lock(commit_mutex_);
      return GoOnBehind(*db_);
    }
  }
  const WriterMutexLock lock(db_mutex_);
  const MutexLock commit_lock(commit_mutex_);
  if (absl::IsDataLoss(placed)) {
    TANDEM_RETURN_IF_ERROR(Rescue(placed));
  } else {
    // RocksDB takes some errors for final that are not. What cannot be read now may be then.
    if (db_ != nullptr) static_cast<void>(Rescue(placed));
    db_.reset();
    placed = OpenAgain();
  }
  if (absl::IsDataLoss(placed)) placed = WriteAnew(placed);
  // What is open is read again.
  if (db_ != nullptr) rescued_.clear();
  if (placed.ok()) {
    watch_ = kv_store::DatabaseWatch(options_.folder, *db_);
    TellWhatHappened();
  }
  return placed;
}

}  // namespace tandem::frontend
