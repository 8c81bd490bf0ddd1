#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "core/base/mutex.h"
#include "core/base/status.h"
#include "kv_store/journal/conversation_database.h"
#include "kv_store/journal/database_watch.h"
#include "kv_store/journal/journal.h"

namespace tandem::kv_store {

/// A database of conversations that a host has a copy of.
struct JournalCopy {
  enum class Condition : uint8_t {
    kWhole,
    kFence,    // its position alone: somebody went on from there, so nobody else may
    kDamaged,  // cannot be read
  };
  StateId state{};
  Condition condition = Condition::kWhole;
  std::optional<JournalPosition> position;  // nothing: damaged
  bool attended = false;                    // the server that writes it was heard of just now
};

/// A part of a whole database. Parts of a session come in order.
struct JournalPart {
  uint64_t session = 0;    // random
  uint32_t number = 0;     // from 0
  bool last = false;       // then the copy is the database, at once
  bool overwrite = false;  // though the copy that is there has what the database has not
  JournalPosition at;      // of the database
  std::vector<PlacedRecord> records;
};

/// Records of a copy, in order of their places.
struct JournalPage {
  JournalPosition at;
  bool more = false;  // behind the last of them
  std::vector<PlacedRecord> records;
};

/// The first place of a range, and the first behind it.
using PlaceRange = std::pair<std::string, std::string>;

/// The copies that an agent keeps of the conversations of other hosts' servers, each a database of
/// its own whose log is synced before a change counts, in a folder that bears its state's name.
///
/// A copy takes only changes that follow on what it has, or a whole database that has all of it; so
/// it is always what its database was at its position. One that is damaged is nothing until it is
/// replaced by a whole one, and one whose files somebody removes or replaces is what is there then.
/// Thread safety: all functions.
class JournalCopies {
 public:
  struct Options {
    std::string folder;                         // made when it is needed
    std::chrono::milliseconds attention{5000};  // a writer was heard of "just now" for so long
    size_t page_bytes = size_t{4} << 20;        // of a JournalPage, about
  };
  /// No two have the same folder.
  explicit JournalCopies(Options options);
  ~JournalCopies();

  std::vector<JournalCopy> List();

  /// Makes these changes, those that it has already left out, and syncs them; none: the writer is
  /// there. Where the copy is now, which is short of the last of them if one did not follow.
  /// kNotFound: there is no whole copy.
  absl::StatusOr<JournalPosition> Append(const StateId& state,
                                         std::span<const JournalEntry> entries);
  /// A database without its identity is a fence. kFailedPrecondition if the copy that is there has
  /// what the database has not (with `overwrite` it is put aside, `ID.aside-N`), or a part is out
  /// of order.
  absl::Status Take(const StateId& state, const JournalPart& part);
  /// What lies behind a place. kNotFound: there is no whole copy.
  absl::StatusOr<JournalPage> Read(const StateId& state, const std::string& behind);

  /// Once it is OK, nothing of what was deleted from these ranges up to `at` is on the disk. Of a
  /// copy that has not come so far nothing but a fence is left. kFailedPrecondition if the copy is
  /// on another branch.
  absl::Status Erase(const StateId& state, const JournalPosition& at,
                     std::span<const PlaceRange> ranges);
  /// Somebody has gone on from this position: in place of a copy that it contains, if there is one,
  /// that is kept.
  absl::Status Fence(const StateId& state, const JournalPosition& at);

 private:
  using Clock = std::chrono::steady_clock;
  struct Copy {
    std::unique_ptr<rocksdb::DB> db;
    DatabaseWatch watch;
    JournalPosition position;
    bool fence = false;
  };
  struct Incoming {
    uint64_t session = 0;
    uint32_t next = 0;
    std::unique_ptr<rocksdb::DB> db;
  };

  std::string FolderOf(const StateId& state) const;
  /// Whether what was opened is still what its folder has; else it is closed.
  absl::Status CheckInPlace(const StateId& state) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  /// Opened and checked. kNotFound, kDataLoss.
  absl::StatusOr<Copy*> Open(const StateId& state) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::StatusOr<Copy*> OpenWhole(const StateId& state) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::StatusOr<std::unique_ptr<rocksdb::DB>> MakeAnew(const StateId& state)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  /// What MakeAnew made is the copy from now on. aside: the one before is kept.
  absl::Status Replace(const StateId& state, bool aside) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status MakeFence(const StateId& state, const JournalPosition& at)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  /// Writes a copy anew, so that none but its own files are there.
  absl::Status Renew(const StateId& state, CheckedDatabase& checked)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status CheckNothingIsLost(const StateId& state, const JournalPart& part, bool& aside)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const Options options_;
  Mutex mutex_;
  std::map<StateId, Copy> open_ ABSL_GUARDED_BY(mutex_);
  std::map<StateId, Incoming> incoming_ ABSL_GUARDED_BY(mutex_);
  std::map<StateId, Clock::time_point> heard_ ABSL_GUARDED_BY(mutex_);  // of the writers
};

}  // namespace tandem::kv_store
