#pragma once

#include <chrono>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "core/base/mutex.h"
#include "frontend/conversations/conversation_copier.h"
#include "frontend/conversations/conversation_log.h"
#include "frontend/conversations/conversation_store.h"

namespace tandem::frontend {

/// Writes conversations to a store from a thread of its own, so that nobody who answers waits for a
/// disk; a second thread destroys what was deleted, which takes longer.
///
/// Changes that come while one is being synced are synced together next. Where the disk fails, they
/// are kept in memory and tried again every second, and their owners are told at once. As often it
/// looks whether what was written is still there. With a
/// copier a turn counts once it is on the other host's disk as well; the disk here does not wait.
///
/// What was deleted is destroyed at once. KV that nobody asked to destroy but that no conversation
/// has any more is gathered and destroyed together: every time costs a round of all hosts. While a
/// host is away, what it must destroy is tried again after ever longer pauses.
class ConversationWriter final : public ConversationLog {
 public:
  struct Options {
    std::string directory;  // as Status tells it
    bool encrypted = false;
    std::chrono::milliseconds retry{1000};           // and between two looks at what is written
    std::chrono::milliseconds gather{2000};          // KV left behind, before it is destroyed
    std::chrono::milliseconds longest_pause{30000};  // between two tries to destroy
    /// Destroys the KV of these blocks in all tiers; null: there are none.
    ConversationStore::BlockEraser erase_blocks;
    /// Destroys what was deleted in the copies on other hosts; null: there are none. Where there is
    /// a copier, that does it.
    ConversationStore::CopyEraser erase_copies = nullptr;
    /// Who copies turns to another host before they count as durable; nothing: nobody does.
    std::optional<kv_store::CopyKeeper> keeper = std::nullopt;
    ConversationCopier::Options copier = {};
  };

  /// `found`: by the store; its conversations with a name are not the writer's.
  ConversationWriter(Options options, std::unique_ptr<ConversationStore> store,
                     FoundConversations found);
  /// Writes what is left, as far as the disk lets it.
  ~ConversationWriter() override;
  ConversationWriter(const ConversationWriter&) = delete;
  ConversationWriter& operator=(const ConversationWriter&) = delete;

  void Append(const ConversationName& name, ConversationDelta delta,
              std::vector<kv_store::BlockHash> left_behind, Done done) override;
  void EraseKv(std::vector<kv_store::BlockHash> blocks) override;
  void Erase(const ConversationName& name, std::vector<kv_store::BlockHash> blocks,
             Done done) override;
  absl::Status CheckReadable(const ConversationName& name) override;
  std::optional<Conversation> TakeDamaged(const ConversationName& name) override;
  ConversationLogStatus Status() override;

 private:
  using Clock = std::chrono::steady_clock;
  struct Waiting {
    ConversationStore::Change change;
    Done done;  // null: told already
  };

  /// All of them are written together.
  void Put(std::vector<Waiting> changes);
  void WriteLoop();
  /// Writes `backlog` and tells its owners. `backlog` is empty afterwards, or what is to be tried
  /// again.
  void WriteBacklog(std::vector<Waiting>& backlog);
  absl::Status TryToWrite(std::span<const ConversationStore::Change> changes);
  /// What the store tells of its files.
  void TakeTold();
  void SyncWitness();
  void Written(std::vector<Waiting>& backlog);
  void Failed(std::vector<Waiting>& backlog, const absl::Status& why);
  void EraseLoop();

  const Options options_;
  const std::string found_;  // damage, at the start
  const std::unique_ptr<ConversationStore> store_;
  std::optional<ConversationCopier> copier_;

  Mutex mutex_;
  CondVar changed_;
  std::vector<Waiting> queue_ ABSL_GUARDED_BY(mutex_);
  // By prefix, what is wrong.
  std::map<std::string, std::string> unreadable_ ABSL_GUARDED_BY(mutex_);
  // What is kept of damaged ones that nobody has asked for by name, by prefix.
  std::map<std::string, Conversation> damaged_ ABSL_GUARDED_BY(mutex_);
  std::string happened_ ABSL_GUARDED_BY(mutex_);         // to the files since the start, last
  int64_t happenings_ ABSL_GUARDED_BY(mutex_) = 0;       // how often something did
  int64_t unreadable_gaps_ ABSL_GUARDED_BY(mutex_) = 0;  // of which no name is known
  int64_t unwritten_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Status trouble_ ABSL_GUARDED_BY(mutex_);  // of writing
  absl::Status erase_trouble_ ABSL_GUARDED_BY(mutex_);
  std::vector<Done> erasure_owners_ ABSL_GUARDED_BY(mutex_);  // owners of erasures that are written
  // Nothing: there is nothing to destroy.
  std::optional<Clock::time_point> erase_at_ ABSL_GUARDED_BY(mutex_);
  // Erasures whose bytes may still be there.
  int64_t unfinished_erasures_ ABSL_GUARDED_BY(mutex_) = 0;
  bool quit_ ABSL_GUARDED_BY(mutex_) = false;
  bool writer_ended_ ABSL_GUARDED_BY(mutex_) = false;

  bool must_recover_ = false;                 // the writing thread's own
  Clock::time_point try_at_;                  // to write what could not be written, or to look
  std::optional<Clock::time_point> sync_at_;  // nothing: the witness is synced
  std::thread writer_;
  std::thread eraser_;
};

}  // namespace tandem::frontend
