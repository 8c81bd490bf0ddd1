#include "frontend/conversations/conversation_writer.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <iterator>
#include <utility>

namespace tandem::frontend {
namespace {

using Erasure = ConversationStore::Erasure;
using Turn = ConversationStore::Turn;
using std::chrono::milliseconds;

constexpr milliseconds kWitnessSync{1000};

/// Whether something is to be destroyed once the change is written.
bool Destroys(const ConversationStore::Change& change) {
  return !std::holds_alternative<Turn>(change);
}

}  // namespace

ConversationWriter::ConversationWriter(Options options, std::unique_ptr<ConversationStore> store,
                                       FoundConversations found)
    : options_(std::move(options)),
      found_(std::move(found.damage)),
      store_(std::move(store)),
      damaged_(std::move(found.nameless)) {
  for (UnreadableConversation& one : found.unreadable) {
    if (one.prefix.empty()) {
      ++unreadable_gaps_;
    } else {
      unreadable_[one.prefix] = std::move(one.what);
    }
  }
  if (options_.keeper) copier_.emplace(options_.copier, *options_.keeper, *store_);
  if (store_->erasing()) {
    erase_at_ = Clock::now();
    unfinished_erasures_ = 1;
  }
  writer_ = std::thread([this] { WriteLoop(); });
  eraser_ = std::thread([this] { EraseLoop(); });
}

ConversationWriter::~ConversationWriter() {
  {
    const MutexLock lock(mutex_);
    quit_ = true;
  }
  changed_.NotifyAll();
  writer_.join();
  eraser_.join();
}

void ConversationWriter::Append(const ConversationName& name, ConversationDelta delta,
                                std::vector<kv_store::BlockHash> left_behind, Done done) {
  std::vector<Waiting> changes;
  if (!left_behind.empty()) {
    changes.push_back({ConversationStore::KvErasure{std::move(left_behind)}, nullptr});
  }
  changes.push_back({Turn{.name = name, .delta = std::move(delta)}, std::move(done)});
  Put(std::move(changes));
}

void ConversationWriter::EraseKv(std::vector<kv_store::BlockHash> blocks) {
  std::vector<Waiting> changes;
  changes.push_back({ConversationStore::KvErasure{std::move(blocks)}, nullptr});
  Put(std::move(changes));
}

void ConversationWriter::Erase(const ConversationName& name,
                               std::vector<kv_store::BlockHash> blocks, Done done) {
  std::vector<Waiting> changes;
  changes.push_back({Erasure{.name = name, .blocks = std::move(blocks)}, std::move(done)});
  Put(std::move(changes));
}

void ConversationWriter::Put(std::vector<Waiting> changes) {
  {
    const MutexLock lock(mutex_);
    for (Waiting& waiting : changes) {
      // From now on the name is free.
      if (const auto* erasure = std::get_if<Erasure>(&waiting.change)) {
        unreadable_.erase(store_->PrefixOf(erasure->name));
        damaged_.erase(store_->PrefixOf(erasure->name));
      }
      queue_.push_back(std::move(waiting));
      ++unwritten_;
    }
  }
  changed_.NotifyAll();
}

absl::Status ConversationWriter::CheckReadable(const ConversationName& name) {
  const std::string prefix = store_->PrefixOf(name);
  const MutexLock lock(mutex_);
  const auto found = unreadable_.find(prefix);
  if (found == unreadable_.end()) return absl::OkStatus();
  return FailedPrecondition(
      "{}: it cannot be read from disk, where it stays; use another name, or conversation.delete "
      "it",
      found->second);
}

std::optional<Conversation> ConversationWriter::TakeDamaged(const ConversationName& name) {
  const std::string prefix = store_->PrefixOf(name);
  const MutexLock lock(mutex_);
  auto kept = damaged_.extract(prefix);
  if (kept.empty()) return std::nullopt;
  return std::move(kept.mapped());
}

ConversationLogStatus ConversationWriter::Status() {
  const MutexLock lock(mutex_);
  ConversationLogStatus status;
  status.directory = options_.directory;
  status.encrypted = options_.encrypted;
  status.conversations = store_->conversations();
  status.unreadable = static_cast<int64_t>(unreadable_.size()) + unreadable_gaps_;
  status.damaged = static_cast<int64_t>(damaged_.size());
  status.damage = found_;
  if (happenings_ > 0) {
    status.damage += (found_.empty() ? "" : "; ") + happened_;
    if (happenings_ > 1) {
      status.damage += fmt::format(" (the last of {} times; the log has all)", happenings_);
    }
  }
  status.unwritten_changes = unwritten_;
  status.unfinished_erasures = unfinished_erasures_;
  status.trouble = Message(trouble_.ok() ? erase_trouble_ : trouble_);
  if (copier_) {
    const ConversationCopier::Status copied = copier_->status();
    status.copied = {.host = copied.host, .uncopied_changes = copied.uncopied};
    if (status.trouble.empty()) status.trouble = Message(copied.trouble);
  }
  return status;
}

void ConversationWriter::WriteLoop() {
  std::vector<Waiting> backlog;
  MutexLock lock(mutex_);
  try_at_ = Clock::now() + options_.retry;
  while (true) {
    while (queue_.empty() && !quit_) {
      const auto next = sync_at_ ? std::min(try_at_, *sync_at_) : try_at_;
      if (changed_.WaitUntil(mutex_, next)) continue;
      if (Clock::now() >= try_at_) break;
      lock.Unlock();
      SyncWitness();
      lock.Lock();
    }
    std::vector<Waiting> more = std::exchange(queue_, {});
    const bool last = quit_;
    const absl::Status trouble = trouble_;
    lock.Unlock();
    for (Waiting& waiting : more) {
      // The turns that an erasure destroys need no longer be written.
      if (const auto* erasure = std::get_if<Erasure>(&waiting.change)) {
        std::erase_if(backlog, [&](const Waiting& earlier) {
          const auto* turn = std::get_if<Turn>(&earlier.change);
          return !earlier.done && turn != nullptr && turn->name == erasure->name;
        });
      }
      backlog.push_back(std::move(waiting));
    }
    if (trouble.ok() || last || Clock::now() >= try_at_) {
      WriteBacklog(backlog);
    } else {
      Failed(backlog, trouble);
    }
    lock.Lock();
    if (last && queue_.empty()) break;
  }
  if (!backlog.empty()) {
    spdlog::error("{}: {} changes of conversations could not be written and are lost",
                  options_.directory, backlog.size());
  } else if (!trouble_.ok()) {
    spdlog::error("{}: what was said may be lost, since it is not where the next server looks: {}",
                  options_.directory, Message(trouble_));
  }
  writer_ended_ = true;
  lock.Unlock();
  SyncWitness();
  changed_.NotifyAll();
}

void ConversationWriter::WriteBacklog(std::vector<Waiting>& backlog) {
  std::vector<ConversationStore::Change> changes;
  changes.reserve(backlog.size());
  for (Waiting& waiting : backlog) changes.push_back(std::move(waiting.change));
  const absl::Status status = TryToWrite(changes);
  for (size_t i = 0; i < changes.size(); ++i) backlog[i].change = std::move(changes[i]);
  try_at_ = Clock::now() + options_.retry;
  TakeTold();
  if (status.ok()) {
    Written(backlog);
    // Nobody waits for that: only who loses power and the end of the log could miss it.
    if (sync_at_ && Clock::now() >= *sync_at_) SyncWitness();
    if (!sync_at_ && !changes.empty()) sync_at_ = Clock::now() + kWitnessSync;
  } else {
    Failed(backlog, status);
  }
}

absl::Status ConversationWriter::TryToWrite(std::span<const ConversationStore::Change> changes) {
  const auto write = [&] {
    return changes.empty() ? store_->CheckInPlace() : store_->Write(changes);
  };
  absl::Status status;
  if (!must_recover_) status = write();
  // Files that somebody removed are put in their place at once.
  if (must_recover_ || !status.ok()) {
    status = store_->Recover();
    if (status.ok()) status = write();
  }
  must_recover_ = !status.ok();
  return status;
}

void ConversationWriter::TakeTold() {
  std::string told = store_->TakeTold();
  if (told.empty()) return;
  const MutexLock lock(mutex_);
  happened_ = std::move(told);
  ++happenings_;
}

void ConversationWriter::SyncWitness() {
  store_->SyncWitness();
  sync_at_.reset();
}

void ConversationWriter::Written(std::vector<Waiting>& backlog) {
  bool recovered = false;
  {
    const MutexLock lock(mutex_);
    recovered = !std::exchange(trouble_, absl::OkStatus()).ok();
    unwritten_ = static_cast<int64_t>(queue_.size());
    for (Waiting& waiting : backlog) {
      if (!Destroys(waiting.change)) continue;
      const bool deleted = std::holds_alternative<Erasure>(waiting.change);
      if (deleted) erase_at_ = Clock::now();
      if (!erase_at_) erase_at_ = Clock::now() + options_.gather;
      ++unfinished_erasures_;
      if (waiting.done) erasure_owners_.push_back(std::exchange(waiting.done, nullptr));
    }
  }
  if (!backlog.empty()) changed_.NotifyAll();
  if (recovered) {
    spdlog::info("{}: conversations are written again; all {} changes that waited are on disk",
                 options_.directory, backlog.size());
  }
  for (Waiting& waiting : backlog) {
    if (!waiting.done) continue;
    if (copier_) {
      copier_->Await(std::move(waiting.done));
    } else {
      waiting.done(absl::OkStatus());
    }
  }
  backlog.clear();
}

void ConversationWriter::Failed(std::vector<Waiting>& backlog, const absl::Status& why) {
  bool is_new = false;
  {
    const MutexLock lock(mutex_);
    is_new = trouble_.ok();
    trouble_ = why;
    unwritten_ = static_cast<int64_t>(backlog.size() + queue_.size());
  }
  if (is_new) {
    spdlog::error(
        "{}: conversations cannot be written ({}): turns are kept in memory, do not outlive this "
        "process, and are tried again every {} s{}",
        options_.directory, Message(why), std::chrono::duration<double>(options_.retry).count(),
        absl::IsResourceExhausted(why) ? "; make room on the disk" : "");
  }
  for (Waiting& waiting : backlog) {
    if (waiting.done) std::exchange(waiting.done, nullptr)(why);
  }
}

void ConversationWriter::EraseLoop() {
  MutexLock lock(mutex_);
  milliseconds pause = options_.retry;
  while (true) {
    while (!writer_ended_ && !(erase_at_ && Clock::now() >= *erase_at_)) {
      if (erase_at_) {
        changed_.WaitUntil(mutex_, *erase_at_);
      } else {
        changed_.Wait(mutex_);
      }
    }
    if (!erase_at_) return;
    erase_at_.reset();
    const std::vector<Done> owners = std::exchange(erasure_owners_, {});
    const int64_t unfinished = unfinished_erasures_;
    lock.Unlock();
    const absl::Status status = store_->FinishErasures(
        options_.erase_blocks,
        copier_
            ? [this](
                  std::span<const kv_store::PlaceRange> ranges) { return copier_->Erase(ranges); }
            : options_.erase_copies);
    lock.Lock();
    // A host that is away may stay so for long: its absence is told once.
    if (!status.ok() && status != erase_trouble_) {
      spdlog::error("{}: not all of what was deleted is destroyed ({}); it is tried again",
                    options_.directory, Message(status));
    }
    erase_trouble_ = status;
    if (status.ok()) {
      unfinished_erasures_ -= unfinished;
      pause = options_.retry;
    } else {
      // What was deleted meanwhile does not wait.
      erase_at_ = Clock::now() + (erasure_owners_.empty() ? pause : milliseconds(0));
      pause = std::min(2 * pause, options_.longest_pause);
    }
    lock.Unlock();
    for (const Done& done : owners) done(status);
    lock.Lock();
    if (writer_ended_ && !status.ok()) return;  // the next process does it
  }
}

}  // namespace tandem::frontend
