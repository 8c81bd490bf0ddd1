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
#include "frontend/conversations/conversation_reader.h"
#include "frontend/conversations/conversation_witness.h"
#include "frontend/conversations/erased_conversations.h"
#include "kv_store/base/block_hash.h"
#include "kv_store/base/encrypted_box.h"
#include "kv_store/journal/conversation_database.h"
#include "kv_store/journal/database_watch.h"
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
  /// What is kept of damaged ones without a name, by the prefix of their places.
  std::map<std::string, Conversation> nameless;
  std::vector<UnreadableConversation> unreadable;  // of a newer program, or gaps (without prefix)
  std::string damage;                              // of files; empty: none
  int64_t damaged() const;                         // conversations, with and without a name
};

/// Conversations on disk: a RocksDB whose log is synced before a write counts, and a witness
/// (`FOLDER.witness`) that knows how far each has come.
///
/// One writer, the process that holds the database's lock. A turn costs what it added, not what the
/// conversation has. Nothing that is damaged is read as something else, no turn that was written is
/// missing unnoticed, nothing is taken for erased that was not, and nothing but FinishErasures and
/// a turn that goes on with a damaged conversation removes bytes: damaged files are put aside whole
/// (`FOLDER.damaged-N`) before the rest is gone on with. Where somebody removes or replaces its
/// files meanwhile, all is written anew, since it is still in what this process has open. Every
/// write moves its position on (journal.h), so that a copy elsewhere can follow. Thread safety:
/// Write, Recover, CheckInPlace and SyncWitness by one thread; FinishErasures by another at the
/// same time; position, SetListener and ReadAll by any.
class ConversationStore {
 public:
  struct Options {
    std::string folder;                           // made if it is not there
    const kv_store::EncryptedBox* box = nullptr;  // must outlive the store; null: plain bytes
    /// Asked before and after each write whether the directory that the folder is in is this
    /// process's, so that it may take it again; gives what happened to it, empty: nothing. Must
    /// outlive the store, and takes calls of its threads; null: nobody asks.
    std::function<absl::StatusOr<std::string>()> hold = nullptr;
  };
  struct Opened;

  /// Opens or makes a store and reads all of it, whatever is damaged; says in the log what could
  /// not be read. kFailedPrecondition if it was made with another key or by a newer program, or if
  /// another process has it.
  static absl::StatusOr<Opened> Open(const Options& options);
  /// Reads all of it, also while another process has it open, as far as it can be read; changes
  /// nothing. kNotFound if there is no store; kFailedPrecondition as Open.
  static absl::StatusOr<FoundConversations> Look(const Options& options);
  /// Which store there was, as its witness tells it; nothing if that cannot be known.
  static std::optional<kv_store::StateId> WitnessedState(const Options& options);
  static std::string WitnessPath(const std::string& folder) { return folder + ".witness"; }
  ~ConversationStore();
  ConversationStore(const ConversationStore&) = delete;
  ConversationStore& operator=(const ConversationStore&) = delete;

  /// A turn that a conversation ends with from now on; one that is not there, or is damaged, begins
  /// with it.
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

  /// Writes all of them or none, in order. OK: synced to disk, in files that the next process will
  /// find. After an error nothing is written before Recover succeeds; then the same changes may be
  /// written again.
  absl::Status Write(std::span<const Change> changes);
  absl::Status Recover();
  /// Whether the next process will find what was written. A witness that is gone or replaced is
  /// made anew; of the database kDataLoss, and Recover writes it anew.
  absl::Status CheckInPlace();
  /// What has happened to the files since this was asked last, and what was done; empty: nothing.
  std::string TakeTold();
  /// What was written outlives, as the witness tells it, a loss of power too.
  void SyncWitness();

  /// Whether the position is a new one, since it could not be read.
  bool journal_lost() const { return journal_lost_; }
  /// Whether turns are missing that a copy may have.
  bool damaged() const { return behind_ || !damaged_.empty(); }
  /// Whether this store was at that position, as its witness knows; a larger number is a later
  /// time.
  std::optional<size_t> Watched(const kv_store::JournalPosition& position);
  /// Takes what is missing from a copy of this store, as far as it is there, and goes on behind its
  /// position; brings `found` up to date. Before the first Write.
  absl::Status TakeFromCopy(const std::vector<kv_store::PlacedRecord>& copy,
                            const kv_store::JournalPosition& at, FoundConversations& found);

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
  ConversationStore(Options options, std::unique_ptr<rocksdb::DB> db, ConversationPlaces places);

  /// Gives it what it needs after ReadWhole; OpenRead does that for a database without trouble of
  /// another kind.
  static absl::StatusOr<Opened> OpenRead(const Options& options, kv_store::ReadDatabase& read);
  /// Reads the position that the database has; writes a new one where it has none.
  absl::Status ReadPosition() ABSL_SHARED_LOCKS_REQUIRED(db_mutex_);
  /// branch: a new one begins.
  absl::Status Commit(std::vector<kv_store::JournalChange> changes,
                      std::vector<WitnessSlot> slots = {}, bool branch = false)
      ABSL_SHARED_LOCKS_REQUIRED(db_mutex_);

  /// What of a database was erased before, and was put back with it.
  struct RisenConversation {
    ReadConversation read;
    std::vector<std::string> places;  // of its records
  };
  using Risen = std::map<std::string, RisenConversation>;  // by prefix
  using Records = std::span<const kv_store::PlacedRecord>;
  /// Makes conversations of records that come ordered by place. `report`: what the witness says.
  /// What is risen is no conversation.
  Risen Read(const std::vector<kv_store::PlacedRecord>& records, const WitnessReport& report,
             FoundConversations& found);
  struct Parted {
    std::vector<kv_store::PlacedRecord> erased;
    std::vector<kv_store::PlacedRecord> others;
  };
  /// Parts what lies at a conversation's places; gives what is of none that was erased.
  Records PartErased(const ConversationReader& reader, Records group, Parted& parted);
  bool WasErased(const WitnessHash& conversation, uint64_t instance);
  /// Notes which conversations were erased, of what the records and the witness say.
  void ReadErased(const std::vector<kv_store::PlacedRecord>& records, const WitnessReport& report);
  void Add(const std::string& prefix, ReadConversation read, FoundConversations& found);
  /// Of one that a newer program has written.
  void KeepSlot(const std::string& prefix, const WitnessSlot* claim);
  /// Destroys what is risen, and puts on record what the witness alone had.
  std::vector<kv_store::JournalChange> ErasureOf(const Risen& risen,
                                                 const FoundConversations& found);
  /// Erases what is risen; from then on the witness is told of changes, on a new branch if there is
  /// to be one.
  absl::Status GoOn(const Risen& risen, const FoundConversations& found,
                    const WitnessReport& report, bool branch) ABSL_SHARED_LOCKS_REQUIRED(db_mutex_);
  WitnessSlot SlotOf(const std::string& prefix, const ConversationState& state) const;
  WitnessSlot SlotOf(const std::string& prefix, const ReadConversation& read) const;

  /// CheckInPlace.
  absl::Status Check() ABSL_SHARED_LOCKS_REQUIRED(db_mutex_);
  absl::Status Hold() ABSL_EXCLUSIVE_LOCKS_REQUIRED(commit_mutex_);
  /// The witness is in its place afterwards.
  absl::Status KeepWitness() ABSL_EXCLUSIVE_LOCKS_REQUIRED(commit_mutex_);
  /// Reads all that is open, of a database that is to be closed.
  absl::Status Rescue(const absl::Status& why)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(db_mutex_, commit_mutex_);
  /// Goes on from the position that the database has. kDataLoss if it has not all that was written.
  absl::Status GoOnBehind(rocksdb::DB& db) ABSL_EXCLUSIVE_LOCKS_REQUIRED(commit_mutex_);
  /// Opens what was closed. kDataLoss if that has not all that was written.
  absl::Status OpenAgain() ABSL_EXCLUSIVE_LOCKS_REQUIRED(db_mutex_, commit_mutex_);
  /// Writes what was rescued into a new database in the folder's place; `happened_` says so.
  absl::Status WriteAnew(const absl::Status& why)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(db_mutex_, commit_mutex_);
  void TellWhatHappened() ABSL_EXCLUSIVE_LOCKS_REQUIRED(db_mutex_, commit_mutex_);
  void Tell(std::string what) ABSL_EXCLUSIVE_LOCKS_REQUIRED(commit_mutex_);

  /// Notes slots in the witness, which is made anew where there is none.
  absl::Status Witness(std::vector<WitnessSlot> slots) ABSL_EXCLUSIVE_LOCKS_REQUIRED(commit_mutex_);

  std::string Encrypted(const std::string& tenant, const std::string& place,
                        std::vector<std::byte> record) const;
  absl::Status EraseBytes(const std::vector<kv_store::PlacedRecord>& erasures,
                          const BlockEraser& erase_blocks, const CopyEraser& erase_copies)
      ABSL_SHARED_LOCKS_REQUIRED(db_mutex_);

  const Options options_;
  const ConversationPlaces places_;
  SharedMutex db_mutex_;  // held alone while the database is opened again
  std::unique_ptr<rocksdb::DB> db_ ABSL_GUARDED_BY(db_mutex_);  // null if that has failed
  // All records, while the database is closed.
  std::vector<kv_store::PlacedRecord> rescued_ ABSL_GUARDED_BY(db_mutex_);
  std::string happened_ ABSL_GUARDED_BY(db_mutex_);  // to its files; told once that is put right
  std::string aside_ ABSL_GUARDED_BY(db_mutex_);     // where what was in their place is
  Mutex commit_mutex_;                               // held while a change is written
  kv_store::JournalPosition position_ ABSL_GUARDED_BY(commit_mutex_);
  Listener listener_ ABSL_GUARDED_BY(commit_mutex_);
  std::unique_ptr<ConversationWitness> witness_ ABSL_GUARDED_BY(commit_mutex_);
  std::map<WitnessHash, WitnessSlot> witnessed_ ABSL_GUARDED_BY(commit_mutex_);  // those that count
  std::vector<WatchedChanges> watched_ ABSL_GUARDED_BY(commit_mutex_);           // the last goes on
  ErasedConversations erased_ ABSL_GUARDED_BY(commit_mutex_);
  std::vector<ErasedConversation> unrecorded_;  // of these, until GoOn: not in the database
  bool witness_failed_ ABSL_GUARDED_BY(commit_mutex_) = false;  // and the log says so
  kv_store::DatabaseWatch watch_ ABSL_GUARDED_BY(commit_mutex_);
  std::string told_ ABSL_GUARDED_BY(commit_mutex_);
  std::map<std::string, ConversationState> states_;   // by prefix; what Write has written
  std::map<std::string, ConversationState> damaged_;  // by prefix; what is kept of them
  bool behind_ = false;                               // changes are missing at the end
  bool journal_is_new_ = false;                       // there was none to be read
  bool journal_lost_ = false;
  bool chained_ = false;  // there are turns that were written beside a witness
  bool unkept_ = false;   // there are records of damaged conversations that are not kept
  std::atomic<int64_t> conversations_{0};
  std::atomic<bool> erasing_{false};
  std::set<std::string> textless_;  // places of erasures whose bytes are gone; FinishErasures' own
};

struct ConversationStore::Opened {
  std::unique_ptr<ConversationStore> store;
  FoundConversations found;
};

}  // namespace tandem::frontend
