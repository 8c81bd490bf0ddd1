#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "frontend/conversations/conversation_delta.h"

/// How conversations lie on disk: a head that is written anew with every turn, and a record a turn.
///
/// A record is a version byte, the fields (little-endian, counted), and 16 bytes of BLAKE2b over
/// the record's place, the version and the fields; so a record that lies elsewhere is damaged too.
/// Decoders trust nothing and take memory in proportion to the record. kFailedPrecondition: written
/// by a newer program; kDataLoss: damaged. docs/state.md describes the bytes.
///
/// Turns are a chain: each has the hash of the one before it, and the head has the last one's.
/// Version 1 of both records has no hashes, version 3 of a turn has a form of attention.
namespace tandem::frontend {

/// Of a turn's record: the bytes that end it. Zeros stand for the turn before the first.
using TurnHash = std::array<uint8_t, 16>;

/// Of a list in a record: none but the record's own size.
inline constexpr size_t kNoLimit = std::numeric_limits<uint32_t>::max();

struct ConversationHead {
  ConversationName name;
  uint64_t instance = 0;  // drawn when it began: tells its turns from an earlier one's of that name
  uint64_t turns = 0;
  std::optional<TurnHash> last;  // of the last turn; nothing: version 1
};

struct ConversationTurnRecord {
  uint64_t instance = 0;
  std::optional<TurnHash> before;  // of the turn before; nothing: version 1
  ConversationDelta delta;
};

/// `place`: the key under which the record lies.
std::vector<std::byte> EncodeHead(std::string_view place, const ConversationHead& head);
std::vector<std::byte> EncodeTurn(std::string_view place, uint64_t instance,
                                  const std::optional<TurnHash>& before,
                                  const ConversationDelta& delta);
/// Of a record that EncodeTurn has made or DecodeTurn has read.
TurnHash HashOfTurn(std::span<const std::byte> record);
absl::StatusOr<ConversationHead> DecodeHead(std::string_view place,
                                            std::span<const std::byte> record);
absl::StatusOr<ConversationTurnRecord> DecodeTurn(std::string_view place,
                                                  std::span<const std::byte> record);

}  // namespace tandem::frontend
