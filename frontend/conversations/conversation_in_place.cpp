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
  const absl::Status status = witness_->CheckInPlace();
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

absl::Status ConversationStore::OpenWritten() {
  auto opened = kv_store::OpenInPlace(options_.folder);
  TANDEM_RETURN_IF_ERROR(opened.status());
  std::string record;
  const rocksdb::Status got = (*opened)->Get({}, rocksdb::Slice(kv_store::kPositionPlace), &record);
  const std::string* const expected = BytesAt(rescued_, kv_store::kPositionPlace);
  if (!got.ok() || expected == nullptr || record != *expected) {
    kv_store::CloseGently(*std::move(opened));
    return absl::DataLossError(options_.folder + ": it is another database");
  }
  db_ = *std::move(opened);
  return absl::OkStatus();
}

absl::Status ConversationStore::WriteAnew() {
  const MutexLock lock(commit_mutex_);
  if (db_ != nullptr) {
    const absl::Status why = watch_.Check(*db_);
    if (why.ok()) return absl::OkStatus();
    auto records = kv_store::ReadStrictly(*db_);
    if (!records.ok()) {
      return absl::DataLossError(
          fmt::format("{} while the server ran, and what was in it can no longer be read ({}): "
                      "start the server "
                      "again, which tells what is lost",
                      Message(why), Message(records.status())));
    }
    rescued_ = *std::move(records);
    rescued_why_ = Message(why);
  }
  // First, so that whoever ends in between leaves a witness that tells what is missing.
  TANDEM_RETURN_IF_ERROR(KeepWitness());
  std::string aside;
  absl::Status written = absl::DataLossError("it is not written yet");
  if (db_ == nullptr) written = OpenWritten();
  if (absl::IsDataLoss(written)) {
    auto put = kv_store::PutInPlace(options_.folder, rescued_, db_);
    if (!put.ok() && db_ != nullptr) rescued_.clear();
    TANDEM_RETURN_IF_ERROR(put.status());
    aside = *std::move(put);
  } else {
    TANDEM_RETURN_IF_ERROR(written);
  }
  rescued_.clear();
  watch_ = kv_store::DatabaseWatch(options_.folder);
  Tell(fmt::format(
      "{} while the server ran; all that was said is written anew{}", rescued_why_,
      aside.empty() ? ""
                    : fmt::format(", and what was in its place is kept in {}, perhaps with what "
                                  "had been deleted: remove it when nothing more is wanted from it",
                                  aside)));
  return absl::OkStatus();
}

absl::Status ConversationStore::Recover() {
  const kv_store::JournalPosition before = position();
  const auto read_position = [&]() ABSL_SHARED_LOCKS_REQUIRED(db_mutex_) -> absl::Status {
    TANDEM_RETURN_IF_ERROR(ReadPosition());
    // What failed may be there all the same.
    const MutexLock lock(commit_mutex_);
    if (position_.Contains(before)) return absl::OkStatus();
    position_ = before;
    return absl::DataLossError(
        fmt::format("{}: changes that were written are missing: start the "
                    "server again, which tells what is lost",
                    options_.folder));
  };
  bool in_place = true;
  {
    const ReaderMutexLock lock(db_mutex_);
    const MutexLock commit_lock(commit_mutex_);
    TANDEM_RETURN_IF_ERROR(Hold());
    in_place = db_ != nullptr ? !absl::IsDataLoss(watch_.Check(*db_)) : rescued_.empty();
  }
  if (in_place) {
    const ReaderMutexLock lock(db_mutex_);
    if (db_ != nullptr && db_->Resume().ok()) return read_position();
  }
  const WriterMutexLock lock(db_mutex_);
  if (!in_place) {
    TANDEM_RETURN_IF_ERROR(WriteAnew());
  } else {
    // RocksDB takes some errors for final that are not.
    db_.reset();
    TANDEM_ASSIGN_OR_RETURN(db_, kv_store::OpenInPlace(options_.folder));
    const MutexLock commit_lock(commit_mutex_);
    watch_ = kv_store::DatabaseWatch(options_.folder);
  }
  return read_position();
}

}  // namespace tandem::frontend
