#include "frontend/conversations/conversation_copier.h"

#include <sodium.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <future>
#include <memory>
#include <utility>
#include <vector>

#include "core/base/mutex.h"

namespace tandem::frontend {
namespace {

using kv_store::JournalCopy;
using kv_store::JournalEntry;
using kv_store::JournalPosition;

constexpr size_t kMostRecords = 4096;  // of a message

}  // namespace

ConversationCopier::ConversationCopier(const Options& options, kv_store::CopyKeeper keeper,
                                       ConversationStore& store)
    : options_(options), keeper_(std::move(keeper)), store_(store) {
  written_ = store_.position().sequence;
  store_.SetListener([this](JournalEntry entry) { Take(std::move(entry)); });
  sender_ = std::thread([this] { Send(); });
  clock_ = std::thread([this] { RunClock(); });
}

ConversationCopier::~ConversationCopier() {
  store_.SetListener(nullptr);
  {
    const MutexLock lock(mutex_);
    stop_ = Clock::now() + options_.deadline;
  }
  changed_.NotifyAll();
  sender_.join();
  clock_.join();
}

void ConversationCopier::Take(JournalEntry entry) {
  {
    const MutexLock lock(mutex_);
    written_ = entry.at.sequence;
    queue_bytes_ += entry.bytes();
    queue_.push_back(std::move(entry));
    if (queue_bytes_ > options_.queue_bytes) {
      queue_.clear();
      queue_bytes_ = 0;
      host_.clear();
    }
  }
  changed_.NotifyAll();
}

void ConversationCopier::Await(Done done) {
  absl::Status trouble;
  {
    const MutexLock lock(mutex_);
    trouble = trouble_;
    if (trouble.ok() && Behind()) {
      waiting_.push_back({.sequence = written_,
                          .deadline = Clock::now() + options_.deadline,
                          .done = std::move(done)});
      done = nullptr;
    }
  }
  changed_.NotifyAll();
  if (done) done(trouble);
}

absl::Status ConversationCopier::Erase(std::span<const kv_store::PlaceRange> ranges) {
  // What is on its way to a copy must not come there behind this.
  const auto told = std::make_shared<std::promise<absl::Status>>();
  const JournalPosition at = store_.position();
  Await([told](absl::Status status) { told->set_value(std::move(status)); });
  TANDEM_RETURN_IF_ERROR(told->get_future().get());
  return keeper_.Erase(at, ranges);
}

ConversationCopier::Status ConversationCopier::status() {
  const MutexLock lock(mutex_);
  return {.host = host_,
          .uncopied = static_cast<int64_t>(copied_.branches.empty() ? queue_.size()
                                                                    : written_ - copied_.sequence),
          .trouble = trouble_.ok() ? late_ : trouble_};
}

void ConversationCopier::CopiedUpTo(const JournalPosition& position) {
  while (!queue_.empty() && position.Contains(queue_.front().at)) {
    queue_bytes_ -= queue_.front().bytes();
    queue_.pop_front();
  }
  copied_ = position;
  if (queue_.empty()) late_ = absl::OkStatus();
}

bool ConversationCopier::Follows() const {
  return queue_.empty() ? written_ == copied_.sequence
                        : queue_.front().at.sequence == copied_.sequence + 1;
}

absl::Status ConversationCopier::CopyWhole(const std::string& host) {
  TANDEM_ASSIGN_OR_RETURN(const std::vector<kv_store::PlacedRecord> records, store_.ReadAll());
  kv_store::JournalPart part;
  randombytes_buf(&part.session, sizeof(part.session));
  if (const std::string* position = BytesAt(records, kv_store::kPositionPlace)) {
    TANDEM_ASSIGN_OR_RETURN(part.at, kv_store::DecodePosition(*position));
  }
  spdlog::info("conversations: all {} records are copied to host {}", records.size(), host);
  for (size_t next = 0; !part.last;) {
    size_t bytes = 0;
    part.records.clear();
    for (; next < records.size() && bytes < options_.batch_bytes &&
           part.records.size() < kMostRecords;
         ++next) {
      bytes += records[next].bytes.size() + records[next].place.size();
      part.records.push_back(records[next]);
    }
    part.last = next == records.size();
    TANDEM_RETURN_IF_ERROR(keeper_.Give(host, part));
    ++part.number;
  }
  const MutexLock lock(mutex_);
  CopiedUpTo(part.at);
  // Changes that were dropped meanwhile cannot follow any more.
  if (!Follows()) return Unavailable("more is said than can be copied to host {}", host);
  host_ = host;
  return absl::OkStatus();
}

absl::Status ConversationCopier::FindPlace() {
  TANDEM_ASSIGN_OR_RETURN(const kv_store::AgentCopies found, keeper_.Find(/*patient=*/false));
  if (found.keeper.empty()) {
    return Unavailable("no other host of the job answers that could keep a copy");
  }
  const JournalPosition own = store_.position();
  bool usable = false;
  JournalPosition there;
  for (const auto& [host, copy] : found.copies) {
    if (copy.state != keeper_.state() || !copy.position) continue;
    if (!own.Contains(*copy.position)) {
      return FailedPrecondition(
          "a server went on with these conversations from the copy on host {}; end this one: "
          "started again, it says what to do",
          host);
    }
    if (host != found.keeper || copy.condition != JournalCopy::Condition::kWhole) continue;
    usable = own.Contains(*copy.position);
    there = *copy.position;
  }
  if (usable) {
    const MutexLock lock(mutex_);
    CopiedUpTo(there);
    if (Follows()) {
      host_ = found.keeper;
      return absl::OkStatus();
    }
  }
  return CopyWhole(found.keeper);
}

absl::Status ConversationCopier::SendQueue(const std::string& host) {
  std::vector<JournalEntry> entries;
  {
    const MutexLock lock(mutex_);
    size_t bytes = 0;
    for (const JournalEntry& entry : queue_) {
      if (!entries.empty() &&
          (bytes + entry.bytes() > options_.batch_bytes || entries.size() == kMostRecords)) {
        break;
      }
      bytes += entry.bytes();
      entries.push_back(entry);
    }
  }
  std::optional<JournalPosition> last;
  if (!entries.empty()) last = entries.back().at;
  const auto position = keeper_.Append(host, std::move(entries));
  const MutexLock lock(mutex_);
  if (position.ok() && (last ? position->Contains(*last) : *position == copied_)) {
    CopiedUpTo(*position);
    return absl::OkStatus();
  }
  host_.clear();
  // It lost something: it is looked at anew.
  if (position.ok() || absl::IsNotFound(position.status())) return absl::OkStatus();
  return position.status();
}

void ConversationCopier::FenceOffOlder(const std::string& host) {
  JournalPosition own;
  {
    const MutexLock lock(mutex_);
    if (host != host_ || Behind()) return;
    own = copied_;
  }
  const auto found = keeper_.Find(/*patient=*/false);
  if (!found.ok()) return;
  for (const auto& [other, copy] : found->copies) {
    if (other == host || copy.state != keeper_.state() ||
        copy.condition != JournalCopy::Condition::kWhole || !own.Contains(*copy.position)) {
      continue;
    }
    const absl::Status status = keeper_.FenceOff(other, own, /*overwrite=*/false);
    if (!status.ok()) spdlog::warn("an older copy stays on host {}: {}", other, Message(status));
  }
}

absl::Status ConversationCopier::Step() {
  std::string host;
  {
    const MutexLock lock(mutex_);
    host = host_;
  }
  if (host.empty()) return FindPlace();
  TANDEM_RETURN_IF_ERROR(SendQueue(host));
  if (Clock::now() >= tidy_at_) {
    tidy_at_ = Clock::now() + options_.tidy;
    FenceOffOlder(host);
  }
  return absl::OkStatus();
}

void ConversationCopier::Send() {
  Clock::time_point next = Clock::now();
  MutexLock lock(mutex_);
  while (true) {
    const auto now = Clock::now();
    if (stop_ && (!Behind() || !trouble_.ok() || now >= *stop_)) break;
    // In trouble it is tried now and then, else at once.
    if ((Behind() && trouble_.ok()) || now >= next) {
      lock.Unlock();
      const absl::Status status = Step();
      lock.Lock();
      next = Clock::now() + (status.ok() ? options_.sign : options_.retry);
      if (!status.ok() && trouble_.ok()) {
        spdlog::error(
            "conversations are not copied to another host ({}): turns do not count as durable, and "
            "it is tried again every {} s",
            Message(status), std::chrono::duration<double>(options_.retry).count());
      } else if (status.ok() && !trouble_.ok() && !host_.empty()) {
        spdlog::info("conversations are copied again, to host {}", host_);
      }
      trouble_ = status;
      std::vector<std::pair<Done, absl::Status>> told;
      while (!waiting_.empty()) {
        Waiting& first = waiting_.front();
        const bool copied = !host_.empty() && first.sequence <= copied_.sequence;
        if (!copied && status.ok()) break;
        told.emplace_back(std::move(first.done), copied ? absl::OkStatus() : status);
        waiting_.pop_front();
      }
      lock.Unlock();
      for (auto& [done, result] : told) done(result);
      lock.Lock();
      continue;
    }
    changed_.WaitUntil(mutex_, next);
  }
  sender_ended_ = true;
  lock.Unlock();
  changed_.NotifyAll();
}

void ConversationCopier::RunClock() {
  MutexLock lock(mutex_);
  while (!sender_ended_ || !waiting_.empty()) {
    if (waiting_.empty()) {
      changed_.Wait(mutex_);
      continue;
    }
    const Clock::time_point deadline = waiting_.front().deadline;
    if (!sender_ended_ && Clock::now() < deadline) {
      changed_.WaitUntil(mutex_, deadline);
      continue;
    }
    Waiting late = std::move(waiting_.front());
    waiting_.pop_front();
    const absl::Status status = absl::DeadlineExceededError(
        host_.empty() ? "the copy on another host is not there yet"
                      : fmt::format("the copy on host {} is late", host_));
    const bool is_new = late_.ok() && trouble_.ok();
    if (trouble_.ok()) late_ = status;
    lock.Unlock();
    if (is_new)
      spdlog::warn("{}: turns do not count as durable until it is there", Message(status));
    late.done(status);
    lock.Lock();
  }
}

}  // namespace tandem::frontend
