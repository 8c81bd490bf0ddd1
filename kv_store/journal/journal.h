#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/status.h"
#include "core/base/wire.h"

namespace rocksdb {
class WriteBatch;
}  // namespace rocksdb

/// The changes of a database of conversations in their order, as they are copied to another host.
///
/// Every change moves the database on by one. A record in the database says where it is, and a copy
/// takes the changes from there on, so its position alone says what it has.
/// Thread safety: none needed, values and functions of their arguments.
namespace tandem::kv_store {

/// Which database: random, the same for it and all its copies.
using StateId = std::array<uint8_t, 16>;
/// As 32 hexadecimal digits, and back.
std::string StateIdText(const StateId& id);
std::optional<StateId> ParseStateId(std::string_view text);

/// Whoever goes on with a copy begins a branch, so that two who went on from the same place are
/// told apart for good.
struct JournalBranch {
  uint64_t id = 0;     // random
  uint64_t begun = 0;  // behind which change
  bool operator==(const JournalBranch&) const = default;
};

inline constexpr size_t kMostJournalBranches = 64;  // the oldest are dropped

struct JournalPosition {
  std::vector<JournalBranch> branches;  // at least one, the oldest first
  uint64_t sequence = 0;                // of the last change, on the last branch
  bool operator==(const JournalPosition&) const = default;

  /// Whether a database here has all that one there has.
  bool Contains(const JournalPosition& other) const;
  /// Behind one more change.
  JournalPosition Next() const;
  /// The same on a new branch; one change further, which says so.
  JournalPosition Branched() const;
};

/// Whether branches began in their order, each once, and not behind the last change.
bool IsPossible(const JournalPosition& position);

/// Of a database that is new.
JournalPosition NewJournal();

/// 16 bytes of BLAKE2b: they stand behind a record that tells what a database is.
using Checksum = std::array<std::byte, 16>;
Checksum ChecksumOf(std::span<const std::byte> bytes);

/// Where the position lies in the database, and what lies there: version uint8 1, sequence uint64,
/// branches (list of id uint64, begun uint64), checksum (16 bytes of BLAKE2b over these).
inline constexpr std::string_view kPositionPlace = "J";
/// Where the identity lies (ConversationPlaces); a database without it is no whole one.
inline constexpr std::string_view kIdentityPlace = "I";
std::string EncodePosition(const JournalPosition& position);
/// kDataLoss: damaged. kFailedPrecondition: of a newer program.
absl::StatusOr<JournalPosition> DecodePosition(std::string_view record);

struct JournalChange {
  enum class Kind : uint8_t { kPut, kDelete, kDeleteRange };
  Kind kind = Kind::kPut;
  std::string place;
  std::string bytes;  // kPut: what lies there from now on; kDeleteRange: the first place behind it
  bool operator==(const JournalChange&) const = default;
};

/// Whether the range is one, and the position, which comes with the entry, is left alone.
bool IsPossible(const JournalChange& change);

/// Changes that are made together.
struct JournalEntry {
  JournalPosition at;  // behind them
  std::vector<JournalChange> changes;
  bool operator==(const JournalEntry&) const = default;
  size_t bytes() const;
};

/// Adds them, and the position, to what is to be written.
void AddTo(rocksdb::WriteBatch& batch, const JournalEntry& entry);

// The fields of a journal's entries and positions.

inline auto PlaceField(std::string& place) { return core::AtMost(place, 256, "bytes of a place"); }
inline auto BytesField(std::string& bytes) {
  return core::AtMost(bytes, size_t{512} << 20, "bytes of a record");
}

template <typename Archive>
void Fields(Archive& archive, JournalBranch& branch) {
  archive(branch.id, branch.begun);
}

template <typename Archive>
void Fields(Archive& archive, JournalPosition& position) {
  archive(position.sequence, core::AtMost(position.branches, kMostJournalBranches, "branches"));
  archive.Require(IsPossible(position), "a journal's position has branches that cannot be");
}

template <typename Archive>
void Fields(Archive& archive, JournalChange& change) {
  archive(core::UpTo(change.kind, JournalChange::Kind::kDeleteRange, "kind of a change"),
          PlaceField(change.place), BytesField(change.bytes));
  archive.Require(IsPossible(change), "a change of kind {} that cannot be",
                  static_cast<int>(change.kind));
}

template <typename Archive>
void Fields(Archive& archive, JournalEntry& entry) {
  archive(entry.at, core::AtMost(entry.changes, size_t{1} << 20, "changes"));
}

}  // namespace tandem::kv_store
