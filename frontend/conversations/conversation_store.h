#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "core/base/mutex.h"
#include "core/base/status.h"
#include "frontend/conversations/conversation_delta.h"
#include "frontend/conversations/conversation_places.h"
#include "kv_store/base/block_hash.h"
#include "kv_store/base/encrypted_box.h"
#include "kv_store/journal/conversation_database.h"
#include "kv_store/journal/journal.h"
#include "kv_store/journal/journal_copies.h"

namespace tandem::frontend {

/// A conversation that was found on disk and cannot be read. Its bytes stay where they are until
/// the conversation is deleted.
struct UnreadableConversation {
  std::string prefix;  // of its places
  std::string what;    // which one it is, as far as that can be told, and what is wrong
};

/// What Open found.
struct FoundConversations {
  std::vector<std::pair<ConversationName, Conversation>> conversations;
  std::vector<UnreadableConversation> unreadable;
};

/// Conversations on disk: a RocksDB whose log is synced before a write counts.
///
/// One writer, the process that holds the database's lock. A turn costs what it added, not what the
/// conversation has. Nothing that is damaged is read as something else, and nothing but
/// FinishErasures removes bytes: a damaged log or table is put aside whole
/// (`conversations.damaged-N`) before the rest is gone on with. Every write moves its position on
/// (journal.h), so that a copy elsewhere can follow. Thread safety: Write and Recover by one
/// thread; FinishErasures by another at the same time; position, SetListener and ReadAll by any.
class ConversationStore {
 public:
  struct Options {
    std::string folder;                           // made if it is not there
    const kv_store::EncryptedBox* box = nullptr;  // must outlive the store; null: plain bytes
  };
  struct Opened;

  /// Opens or makes a store and reads all of it; says in the log what could not be read.
  /// kFailedPrecondition if it was made with another key or by a newer program, or if another
  /// process has it; kDataLoss if it cannot be read at all.
  static absl::StatusOr<Opened> Open(const Options& options);
  /// Reads all of it, also while another process has it open, as far as it can be read; changes
  /// nothing. kNotFound if there is no store; kFailedPrecondition as Open.
  static absl::StatusOr<FoundConversations> Look(const Options& options);
  ~ConversationStore();
  ConversationStore(const ConversationStore&) = delete;
  ConversationStore& operator=(const ConversationStore&) = delete;

  /// A turn that a conversation ends with from now on; one that is not there begins with it.
  struct Turn {
    ConversationName name;
    ConversationDelta delta;
  };
  /// Destroys a conversation. `blocks`: those of its tokens that nobody else needs; they are told
  /// by FinishErasures until it succeeds.
  struct Erasure {
    ConversationName name;
    std::vector<kv_store::BlockHash> blocks;
  };
  /// Blocks that are told by FinishErasures until it succeeds.
  struct KvErasure {
    std::vector<kv_store::BlockHash> blocks;
  };
  using Change = std::variant<Turn, Erasure, KvErasure>;

  /// Writes all of them or none, in order. OK: synced to disk. After an error nothing is written
  /// before Recover succeeds; then the same changes may be written again.
  absl::Status Write(std::span<const Change> changes);
  absl::Status Recover();

  /// Whether something was erased whose bytes may still be there.
  bool erasing() const { return erasing_.load(); }
  /// Destroys the bytes of what was erased: rewrites the tables that hold them without them, and
  /// removes the logs. `erase_blocks` is asked first to destroy the KV of these blocks, and
  /// `erase_copies` what was in these ranges in all copies; if they cannot, the bytes here are
  /// destroyed all the same. What fails stays to be done, also after the process.
  using BlockEraser = std::function<absl::Status(std::span<const kv_store::BlockHash>)>;
  using CopyEraser = std::function<absl::Status(std::span<const kv_store::PlaceRange>)>;
  absl::Status FinishErasures(const BlockEraser& erase_blocks,
                              const CopyEraser& erase_copies = nullptr);

  kv_store::StateId state() const { return places_.state(); }
  /// Behind the last change.
  kv_store::JournalPosition position();
  /// Told of every change from now on, in order, once it is on disk; from the threads that write.
  using Listener = std::function<void(kv_store::JournalEntry)>;
  void SetListener(Listener listener);
  /// From now on what others went on with from here is told apart from what is here.
  absl::Status BeginBranch();
  /// All records, with the position among them.
  absl::StatusOr<std::vector<kv_store::PlacedRecord>> ReadAll();

  std::string PrefixOf(const ConversationName& name) const { return places_.Prefix(name); }
  int64_t conversations() const { return conversations_.load(); }

 private:
  struct State {
    uint64_t instance = 0;
    uint64_t turns = 0;
  };

  ConversationStore(Options options, std::unique_ptr<rocksdb::DB> db, ConversationPlaces places);

  /// Writes the position that the database has; a new one where it has none.
  absl::Status ReadPosition() ABSL_SHARED_LOCKS_REQUIRED(db_mutex_);
  /// branch: a new one begins.
  absl::Status Commit(std::vector<kv_store::JournalChange> changes, bool branch = false)
      ABSL_SHARED_LOCKS_REQUIRED(db_mutex_);

  /// Makes conversations of records that come ordered by place.
  void Read(const std::vector<kv_store::PlacedRecord>& records, FoundConversations& found);
  /// `records`: of one conversation. `described`: names it as soon as its name is known.
  absl::StatusOr<Conversation> ReadOne(std::span<const kv_store::PlacedRecord> records,
                                       State& state, ConversationName& name,
                                       std::string& described) const;
  std::string Encrypted(const std::string& tenant, const std::string& place,
                        std::vector<std::byte> record) const;
  absl::StatusOr<std::vector<std::byte>> Decrypted(const kv_store::PlacedRecord& record) const;
  absl::Status EraseBytes(const std::vector<kv_store::PlacedRecord>& erasures,
                          const BlockEraser& erase_blocks, const CopyEraser& erase_copies)
      ABSL_SHARED_LOCKS_REQUIRED(db_mutex_);

  const Options options_;
  const ConversationPlaces places_;
  SharedMutex db_mutex_;  // held alone while the database is opened again
  std::unique_ptr<rocksdb::DB> db_ ABSL_GUARDED_BY(db_mutex_);  // null if that has failed
  Mutex commit_mutex_;                                          // held while a change is written
  kv_store::JournalPosition position_ ABSL_GUARDED_BY(commit_mutex_);
  Listener listener_ ABSL_GUARDED_BY(commit_mutex_);
  std::map<std::string, State> states_;  // by prefix; what Write has written
  std::atomic<int64_t> conversations_{0};
  std::atomic<bool> erasing_{false};
  std::set<std::string> textless_;  // places of erasures whose bytes are gone; FinishErasures' own
};

struct ConversationStore::Opened {
  std::unique_ptr<ConversationStore> store;
  FoundConversations found;
};

}  // namespace tandem::frontend
