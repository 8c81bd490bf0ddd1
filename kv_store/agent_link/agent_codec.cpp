#include "kv_store/agent_link/agent_codec.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "core/base/wire.h"
#include "kv_store/journal/journal_fields.h"
#include "zmq.h"

namespace tandem::kv_store {

using core::AtMost;
using core::KindOf;
using core::UpTo;

namespace {

constexpr size_t kMostTiers = 8;
constexpr uint8_t kNowhere = 255;
constexpr size_t kCallAt = 2;
constexpr size_t kKeyBytes = 32;

/// Writes the fields, and gathers what goes beside them.
class FrameWriter : public core::WireWriter, public core::FieldVisitor<FrameWriter> {
 public:
  using core::FieldVisitor<FrameWriter>::operator();
  using core::FieldVisitor<FrameWriter>::Require;
  using core::FieldVisitor<FrameWriter>::WhenRead;

  void Attach(const SharedBytes& bytes) {
    (*this)(static_cast<uint32_t>(bytes.size()));
    if (!bytes.empty()) attached_.push_back(bytes);
  }
  AgentParts TakeParts() {
    attached_.front() = Take();
    return std::move(attached_);
  }

 private:
  AgentParts attached_ = AgentParts(1);  // the first: room for the fields
};

/// Reads the fields, and takes what stands beside them.
class FrameReader : public core::WireReader, public core::FieldVisitor<FrameReader> {
 public:
  using core::FieldVisitor<FrameReader>::operator();
  using core::FieldVisitor<FrameReader>::Require;
  using core::FieldVisitor<FrameReader>::WhenRead;
  using Writer = FrameWriter;

  explicit FrameReader(const AgentParts& parts)
      : WireReader("KV agent", parts.empty() ? std::span<const std::byte>() : parts.front().span()),
        attached_(parts) {
    if (!parts.empty()) attached_ = attached_.subspan(1);
  }
  void Attach(SharedBytes& bytes) {
    uint32_t size = 0;
    (*this)(size);
    if (size == 0) return;
    Require(!attached_.empty() && attached_.front().size() == size,
            "{} bytes of a record are not the next part", size);
    WhenRead([&] {
      bytes = attached_.front();
      attached_ = attached_.subspan(1);
    });
  }
  absl::Status FinishAll() {
    Require(attached_.empty(), "{} parts are left over after the end", attached_.size());
    return Finish();
  }

 private:
  std::span<const SharedBytes> attached_;
};

/// Keys, blocks or records of a message.
template <typename List>
auto Items(List& items, std::string_view of) {
  return AtMost(items, kMostAgentItems, of);
}

}  // namespace

template <typename Archive>
void Fields(Archive& archive, SharedBytes& bytes) {
  archive.Attach(bytes);
}
template <typename Archive>
void Fields(Archive& archive, TierKind& kind) {
  archive(UpTo(kind, TierKind::kRemote, "kind of tier"));
}
template <typename Archive>
void Fields(Archive& archive, TierStats& stats) {
  archive(stats.records, stats.blocks, stats.bytes, stats.bytes_limit, stats.hits, stats.misses,
          stats.evicted, stats.refused, stats.dropped);
}
template <typename Archive>
void Fields(Archive& archive, TierRecord& record) {
  archive(record.key, record.block, record.before, record.tenant, record.bytes);
}
template <typename Archive>
void Fields(Archive& archive, FoundRecord& found) {
  archive(found.from, found.block, found.before, found.tenant, found.bytes);
}
template <typename Archive>
void Fields(Archive& archive, PeekedRecord& record) {
  archive(UpTo(record.state, PeekedRecord::State::kUnreadable, "state of a record"), record.bytes);
}
template <typename Archive>
void Fields(Archive& archive, ListedRecord& record) {
  archive(record.key, record.bytes, record.tiers);
  archive.Require(record.bytes >= 0, "a record of {} bytes", record.bytes);
}
template <typename Archive>
void Fields(Archive& archive, ListedBlock& block) {
  archive(block.block, block.before, block.tenant, block.last_use,
          AtMost(block.records, kLargestAgentFrame, "listed records"));
}
template <typename Archive>
void Fields(Archive& archive, AgentPut& message) {
  archive(Items(message.records, "records"));
}
template <typename Archive>
void Fields(Archive& archive, AgentGet& message) {
  archive(Items(message.keys, "keys"));
}
template <typename Archive>
void Fields(Archive& archive, AgentExists& message) {
  archive(Items(message.keys, "keys"));
}
template <typename Archive>
void Fields(Archive& archive, AgentUse& message) {
  archive(Items(message.keys, "keys"));
}
template <typename Archive>
void Fields(Archive& archive, AgentErase& message) {
  archive(Items(message.blocks, "blocks"));
}
template <typename Archive>
void Fields(Archive& archive, AgentListen& message) {
  archive(AtMost(message.address, kLongestPeerEndpoint, "bytes of an address"));
}
template <typename Archive>
void Fields(Archive& archive, AgentIntroduction& message) {
  archive(AtMost(message.peers, kMostAgentPeers, "peers"), message.copies);
}
template <typename Archive>
void Fields(Archive& archive, AgentListQuery& message) {
  archive(message.after, message.most);
}
template <typename Archive>
void Fields(Archive& archive, AgentPeekQuery& message) {
  archive(message.tier, Items(message.keys, "keys"));
}
template <typename Archive>
void Fields(Archive& archive, AgentDrop& message) {
  archive(Items(message.keys, "keys"));
}
template <typename Archive>
void Fields(Archive& archive, AgentStatus& message) {
  archive(message.status);
}
template <typename Archive>
void Fields(Archive& archive, AgentFound& message) {
  archive(Items(message.records, "found records"));
}
template <typename Archive>
void Fields(Archive& archive, AgentExisting& message) {
  const auto place = [](auto& each, std::optional<TierKind>& where) {
    uint8_t kind = where ? static_cast<uint8_t>(*where) : kNowhere;
    each(kind);
    if (kind == kNowhere) return;
    each.Require(kind <= static_cast<uint8_t>(TierKind::kRemote), "{} is no kind of tier", kind);
    each.WhenRead([&] { where = static_cast<TierKind>(kind); });
  };
  archive(AtMost(message.where, kMostAgentItems, "places", place));
}
template <typename Archive>
void Fields(Archive& archive, AgentStats& message) {
  archive(message.all, AtMost(message.by_tier, kMostTiers, "tiers"));
}
template <typename Archive>
void Fields(Archive& archive, AgentIdentity& message) {
  archive(message.self);
}
template <typename Archive>
void Fields(Archive& archive, AgentListing& message) {
  archive(Items(message.blocks, "listed blocks"));
}
template <typename Archive>
void Fields(Archive& archive, AgentPeeked& message) {
  archive(Items(message.records, "peeked records"));
}

absl::Status CheckPeer(const AgentPeer& peer) {
  const auto plain = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
           c == '_' || c == '.';
  };
  if (peer.host.empty() || peer.host.size() > kLongestPeerName || peer.host.front() == '.' ||
      !std::all_of(peer.host.begin(), peer.host.end(), plain)) {
    return InvalidArgument("KV agent: a peer's host has a name that is none: {} bytes",
                           peer.host.size());
  }
  const auto printed = [](char c) { return c > ' ' && c < 0x7f; };
  if (!peer.endpoint.starts_with("tcp://") || peer.endpoint.size() > kLongestPeerEndpoint ||
      !std::all_of(peer.endpoint.begin(), peer.endpoint.end(), printed)) {
    return InvalidArgument("KV agent: host {} has no endpoint tcp://ADDRESS:PORT", peer.host);
  }
  uint8_t raw[kKeyBytes];
  if (peer.public_key.size() != kPeerKeyCharacters ||
      !std::all_of(peer.public_key.begin(), peer.public_key.end(), printed) ||
      zmq_z85_decode(raw, peer.public_key.c_str()) == nullptr) {
    return InvalidArgument(
        "KV agent: host {} has a key that is none, expected {} characters of Z85", peer.host,
        kPeerKeyCharacters);
  }
  return absl::OkStatus();
}

int64_t BytesOf(const AgentParts& parts) {
  size_t bytes = 0;
  for (const SharedBytes& part : parts) bytes += part.size();
  return static_cast<int64_t>(bytes);
}

AgentParts EncodeAgentFrame(const AgentFrame& frame) {
  FrameWriter writer;
  writer(kAgentVersion, KindOf(frame.message, "message"), frame.call, frame.message);
  return writer.TakeParts();
}

absl::StatusOr<AgentFrame> DecodeAgentFrame(const AgentParts& parts) {
  FrameReader reader(parts);
  uint8_t version = kAgentVersion;
  AgentFrame frame;
  reader(version);
  reader.Require(version == kAgentVersion, "message of version {}, this program speaks {}", version,
                 kAgentVersion);
  reader(KindOf(frame.message, "message"), frame.call, frame.message);
  TANDEM_RETURN_IF_ERROR(reader.FinishAll());
  return frame;
}

uint64_t CallOfFrame(const AgentParts& parts) {
  uint64_t call = 0;
  const SharedBytes bytes = parts.empty() ? SharedBytes() : parts.front();
  if (bytes.size() >= kCallAt + sizeof(call)) {
    std::memcpy(&call, bytes.data() + kCallAt, sizeof(call));
  }
  return call;
}

}  // namespace tandem::kv_store
