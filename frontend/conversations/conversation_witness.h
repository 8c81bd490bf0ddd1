#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/base/status.h"
#include "frontend/conversations/erased_conversations.h"
#include "kv_store/journal/journal.h"

/// What conversations there are and how far each has come, in a file beside their database: what
/// the database has lost is known from it. It holds no text and no names.
///
/// The file is a list of slots of 64 bytes, of which the last of each conversation counts, and all
/// that say that one was erased. A slot:
/// hash of the conversation's places (16 bytes), instance, turns, hash of the last turn (16 bytes),
/// number of the database's last change with the kind in its highest byte, checksum (8 bytes of
/// BLAKE2b over the slot's number and the rest). The first two slots are the identity of the
/// database, twice, since nothing else can be read without it.
///
/// It also knows which changes it was told of (WatchedChanges): a database that is at an earlier
/// one of these was put back to it.
namespace tandem::frontend {

using WitnessHash = std::array<uint8_t, 16>;

struct WitnessSlot {
  enum class Kind : uint8_t {
    kTurns,     // so many were written
    kErased,    // of this instance; from then on there is none of that name, until one begins
    kPosition,  // the number of the change alone
    kDamaged,   // so many were written, and not all of them can be read
    kWatched,   // WatchedChanges: branch, first and last are in instance, turns and sequence
  };
  Kind kind = Kind::kTurns;
  WitnessHash conversation{};
  uint64_t instance = 0;
  uint64_t turns = 0;
  std::optional<WitnessHash> last =
      std::nullopt;       // keyed hash of the last turn; nothing: not known
  uint64_t sequence = 0;  // of the database's last change, below 2^56
  bool operator==(const WitnessSlot&) const = default;
};

/// Changes of a branch of the database's journal. Whatever follows the slot that says so moves
/// `last` on.
struct WatchedChanges {
  uint64_t branch = 0;  // JournalBranch
  uint64_t first = 0;
  uint64_t last = 0;
  bool operator==(const WatchedChanges&) const = default;
};
WitnessSlot WatchedSlot(const WatchedChanges& watched);

/// Where a database is among the changes that its witness was told of, which were all.
enum class WitnessedPlace : uint8_t {
  kUnknown,  // elsewhere, or behind them
  kLast,     // where they end
  kEarlier,  // it was put back
};
WitnessedPlace PlaceAmong(std::span<const WatchedChanges> watched,
                          const kv_store::JournalPosition& position);

inline constexpr size_t kWitnessSlotBytes = 64;
std::array<std::byte, kWitnessSlotBytes> EncodeWitnessSlot(const WitnessSlot& slot,
                                                           uint64_t number);
/// kDataLoss.
absl::StatusOr<WitnessSlot> DecodeWitnessSlot(std::span<const std::byte> bytes, uint64_t number);

/// What a witness said when it was read.
struct WitnessReport {
  bool there = false;
  std::vector<std::byte> identity;           // of the database; empty: it cannot be read
  std::map<WitnessHash, WitnessSlot> slots;  // kTurns or kDamaged
  std::vector<ErasedConversation> erased;    // in their order
  std::vector<WatchedChanges> watched;       // in their order; none where a slot is damaged
  uint64_t sequence = 0;                     // the highest
  int64_t damaged = 0;                       // slots, or what is left of one
};

/// Thread safety: none.
class ConversationWitness {
 public:
  /// Of a file that is not there nothing is reported. kUnavailable if it cannot be read.
  static absl::StatusOr<WitnessReport> Read(const std::string& path);
  /// Writes it anew, in place of what was there, and syncs it. `identity`: 57 bytes at most.
  static absl::StatusOr<std::unique_ptr<ConversationWitness>> Make(
      const std::string& path, std::span<const std::byte> identity,
      std::span<const WitnessSlot> slots);
  ~ConversationWitness();
  ConversationWitness(const ConversationWitness&) = delete;
  ConversationWitness& operator=(const ConversationWitness&) = delete;

  /// Outlives a kill -9 from then on; a loss of power once Sync is done.
  absl::Status Append(std::span<const WitnessSlot> slots);
  absl::Status Sync();
  /// Whether what was added is in the file that has its name. kDataLoss, saying that it is gone,
  /// replaced or cut; kUnavailable if that cannot be known.
  absl::Status CheckInPlace() const;
  /// In the file.
  uint64_t slots() const { return next_; }

 private:
  ConversationWitness(std::string path, int file, uint64_t next)
      : path_(std::move(path)), file_(file), next_(next) {}

  const std::string path_;
  const int file_;
  uint64_t next_;
};

}  // namespace tandem::frontend
