#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "core/base/status.h"
#include "core/base/wire.h"
#include "kv_store/journal/copy_messages.h"
#include "kv_store/records/tier.h"

namespace tandem::kv_store {

inline constexpr uint8_t kAgentVersion = 6;
/// A frame that is larger, all parts together, is refused.
inline constexpr size_t kLargestAgentFrame = size_t{512} << 20;
inline constexpr size_t kMostAgentItems = size_t{1} << 16;  // keys, records or blocks of a message

inline constexpr size_t kMostAgentPeers = 1024;  // that an agent knows

inline constexpr size_t kLongestPeerName = 255;
inline constexpr size_t kLongestPeerEndpoint = 256;
inline constexpr size_t kPeerKeyCharacters = 40;

/// An agent as others reach it.
struct AgentPeer {
  std::string host;        // its name; no two agents of a job have the same
  std::string endpoint;    // "tcp://10.0.0.1:40123"
  std::string public_key;  // CURVE, 40 characters of Z85
  bool operator==(const AgentPeer&) const = default;
};

/// OK, or what is wrong: names that are no file names, endpoints of another kind, keys that are
/// none.
absl::Status CheckPeer(const AgentPeer& peer);
template <typename Archive>
void Fields(Archive& archive, AgentPeer& peer) {
  archive(core::AtMost(peer.host, kLongestPeerName, "bytes of a host's name"),
          core::AtMost(peer.endpoint, kLongestPeerEndpoint, "bytes of an endpoint"),
          core::AtMost(peer.public_key, kPeerKeyCharacters, "characters of a key"));
  archive.WhenRead([&] {
    if constexpr (Archive::kReads) archive.Fail(CheckPeer(peer));
  });
}

// What is asked of an agent.

struct AgentPut {
  std::vector<TierRecord> records;
};
struct AgentGet {
  std::vector<RecordKey> keys;
};
struct AgentExists {
  std::vector<RecordKey> keys;
};
struct AgentUse {
  std::vector<RecordKey> keys;
};
struct AgentFlush {};
struct AgentErase {
  std::vector<BlockHash> blocks;
};
struct AgentStatsQuery {};
struct AgentRenew {};  // whoever asks is still there
struct AgentStop {};   // end
/// Be reachable by other hosts, at this address of yours ("10.0.0.1", "fd00::1").
struct AgentListen {
  std::string address;
};
/// The agents of the other hosts of a job that begins, which may ask you and whom you may ask.
/// Those met before stay known.
struct AgentIntroduction {
  std::vector<AgentPeer> peers;
  uint32_t copies = 1;  // of what is put, on as many hosts
};
struct AgentPing {};  // asked by peers: are you there? Renews nothing
struct AgentListQuery {
  std::optional<BlockHash> after;
  uint32_t most = 0;  // blocks
};
struct AgentPeekQuery {
  TierKind tier = TierKind::kHost;
  std::vector<RecordKey> keys;
};
/// Tier::Drop: on this host alone.
struct AgentDrop {
  std::vector<RecordKey> keys;
};

// What it answers.

struct AgentStatus {  // to all that have no answer of their own, and to what it cannot do
  absl::Status status;
};
struct AgentFound {
  /// Of the first keys that were asked for, at least one: as many as go in a frame.
  std::vector<std::optional<FoundRecord>> records;
};
struct AgentExisting {
  std::vector<std::optional<TierKind>> where;  // [keys]
};
struct AgentStats {
  TierStats all;
  std::vector<std::pair<TierKind, TierStats>> by_tier;
};
struct AgentIdentity {  // to Listen
  AgentPeer self;
};
struct AgentListing {
  /// At least one of those that were asked for, if there are any: as many as go in a frame.
  std::vector<ListedBlock> blocks;
};
struct AgentPeeked {
  std::vector<PeekedRecord> records;  // as AgentFound's
};

using AgentMessage =
    std::variant<AgentPut, AgentGet, AgentExists, AgentUse, AgentFlush, AgentErase, AgentStatsQuery,
                 AgentRenew, AgentStop, AgentListen, AgentIntroduction, AgentPing, AgentListQuery,
                 AgentPeekQuery, AgentDrop, AgentStatus, AgentFound, AgentExisting, AgentStats,
                 AgentIdentity, AgentListing, AgentPeeked, AgentCopyFind, AgentCopyAppend,
                 AgentCopyPart, AgentCopyRead, AgentCopyErase, AgentCopyFence, AgentCopies,
                 AgentCopyAt, AgentCopyPage>;

struct AgentFrame {
  uint64_t call = 0;  // the asker's number; the answer bears it too
  AgentMessage message;
};

/// A frame as it is sent: the fields, and behind them, each a part of its own, the bytes of the
/// records that it carries. So these are never copied: the sender's are sent from where they lie,
/// and what the decoder gives lies where it was received.
using AgentParts = std::vector<SharedBytes>;
int64_t BytesOf(const AgentParts& parts);

/// The fields: version u8, kind u8 (the place in AgentMessage), call u64, then those of the message
/// in order, little endian; of a record's bytes their number, u32, and if that is not 0, they are
/// the next part. Thread safety: none needed, functions of their arguments; so are those below.
AgentParts EncodeAgentFrame(const AgentFrame& frame);

/// kInvalidArgument, saying what is wrong, for everything that EncodeAgentFrame did not write.
absl::StatusOr<AgentFrame> DecodeAgentFrame(const AgentParts& parts);

/// The call of a frame that cannot be decoded, so that it can be refused by number; 0 if even that
/// is missing.
uint64_t CallOfFrame(const AgentParts& parts);

}  // namespace tandem::kv_store
