#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <thread>

#include "core/base/mutex.h"
#include "core/base/status.h"
#include "frontend/conversations/conversation_store.h"
#include "kv_store/agent_link/copy_keeper.h"
#include "kv_store/journal/journal.h"

namespace tandem::frontend {

/// Copies what is written to a store to one more host, and tells those who wait for it.
///
/// One host keeps the copy, as long as it answers. Copies that other hosts kept before are fenced
/// off when these are back. A copy that is new, damaged or too far behind gets the whole store, any
/// other gets the changes as they come. While the copy cannot be brought up to date, those who wait
/// are told why at once, and the copier tries again every `retry`. A copy with changes that the
/// store does not have is left alone: another server went on with it.
/// Thread safety: all functions.
class ConversationCopier {
 public:
  struct Options {
    std::chrono::milliseconds deadline{2000};  // of a change: then whoever waits is told no
    std::chrono::milliseconds retry{1000};
    std::chrono::milliseconds sign{1000};    // an idle store shows that it is there this often
    std::chrono::milliseconds tidy{10'000};  // how often older copies are looked for
    size_t queue_bytes = size_t{64} << 20;   // of changes; beyond that the whole store is copied
    size_t batch_bytes = size_t{4} << 20;    // of a message, about
  };
  /// Told once.
  using Done = std::function<void(absl::Status)>;

  /// Both must outlive it. From then on it is the store's listener.
  ConversationCopier(const Options& options, kv_store::CopyKeeper keeper, ConversationStore& store);
  /// Copies what is left, as far as that can be done within the deadline.
  ~ConversationCopier();
  ConversationCopier(const ConversationCopier&) = delete;
  ConversationCopier& operator=(const ConversationCopier&) = delete;

  /// Tells `done` OK once everything that was written before is on the other host's disk too, or
  /// why it is not yet.
  void Await(Done done);
  /// Destroys what was deleted from these ranges before, in all copies on all hosts.
  absl::Status Erase(std::span<const kv_store::PlaceRange> ranges);

  struct Status {
    std::string host;      // that keeps the copy; empty: none does
    int64_t uncopied = 0;  // changes; while there is no copy, all since the start
    absl::Status trouble;
  };
  Status status();

 private:
  using Clock = std::chrono::steady_clock;
  struct Waiting {
    uint64_t sequence = 0;
    Clock::time_point deadline;
    Done done;
  };

  void Take(kv_store::JournalEntry entry);
  void Send();
  /// What is to be done next, without the lock.
  absl::Status Step();
  /// Finds who keeps the copy, and brings it to where the queue goes on.
  absl::Status FindPlace();
  absl::Status CopyWhole(const std::string& host);
  absl::Status SendQueue(const std::string& host);
  /// A copy that another host kept before is older, and must not be taken for the one that has all:
  /// a fence is put in its place.
  void FenceOffOlder(const std::string& host);
  bool Behind() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return host_.empty() || copied_.sequence < written_;
  }
  /// Whether the queue goes on from where the copy is.
  bool Follows() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void CopiedUpTo(const kv_store::JournalPosition& position) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void RunClock();

  const Options options_;
  const kv_store::CopyKeeper keeper_;
  ConversationStore& store_;

  Mutex mutex_;
  CondVar changed_;
  std::deque<kv_store::JournalEntry> queue_ ABSL_GUARDED_BY(mutex_);  // not copied yet
  size_t queue_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  std::string host_ ABSL_GUARDED_BY(mutex_);      // that has all before the queue; empty: none
  uint64_t written_ ABSL_GUARDED_BY(mutex_) = 0;  // sequence of the last change
  kv_store::JournalPosition copied_ ABSL_GUARDED_BY(mutex_);  // where host_ is
  std::deque<Waiting> waiting_ ABSL_GUARDED_BY(mutex_);
  absl::Status trouble_ ABSL_GUARDED_BY(mutex_);  // of sending
  absl::Status late_ ABSL_GUARDED_BY(mutex_);     // until all is copied
  // Until then what is left is copied.
  std::optional<Clock::time_point> stop_ ABSL_GUARDED_BY(mutex_);
  bool sender_ended_ ABSL_GUARDED_BY(mutex_) = false;

  Clock::time_point tidy_at_;  // the sender's own
  std::thread sender_;
  std::thread clock_;
};

}  // namespace tandem::frontend
