#include "kv_store/agent_link/agent_codec.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "core/base/wire.h"
#include "zmq.h"

namespace tandem::kv_store {
namespace {

using core::WireReader;
using core::WireWriter;

constexpr size_t kLongestText = 1 << 16;
constexpr int kHighestCode = 16;  // absl::StatusCode::kUnauthenticated
constexpr size_t kMostTiers = 8;
constexpr uint8_t kNowhere = 255;
constexpr size_t kHashBytes = 32;
constexpr size_t kRecordFieldsBytes = 2 * kHashBytes + sizeof(uint64_t) + sizeof(uint32_t);
constexpr size_t kListedBlockBytes = 2 * kHashBytes + 2 * sizeof(uint64_t) + sizeof(uint32_t);
constexpr size_t kListedRecordBytes = kHashBytes + sizeof(int64_t) + 1;
constexpr size_t kCallAt = 2;
constexpr size_t kLongestName = 255;
constexpr size_t kLongestEndpoint = 256;
constexpr size_t kKeyText = 40;
constexpr size_t kPeerBytes = 3 * sizeof(uint32_t) + kKeyText;  // at least

using Hash = std::array<uint8_t, kHashBytes>;

void WriteHash(const Hash& hash, WireWriter& writer) { writer.Raw(std::as_bytes(std::span(hash))); }
Hash ReadHash(WireReader& reader) {
  Hash hash{};
  const std::vector<std::byte> raw = reader.Raw(hash.size());
  if (!raw.empty()) std::memcpy(hash.data(), raw.data(), hash.size());
  return hash;
}

void WriteHashes(const std::vector<Hash>& hashes, WireWriter& writer) {
  writer.Count(hashes.size());
  for (const Hash& hash : hashes) WriteHash(hash, writer);
}
std::vector<Hash> ReadHashes(WireReader& reader, std::string_view of) {
  std::vector<Hash> hashes(reader.Count(kMostAgentItems, kHashBytes, of));
  for (Hash& hash : hashes) hash = ReadHash(reader);
  return hashes;
}

/// Writes the fields, and gathers what goes beside them.
class FrameWriter : public WireWriter {
 public:
  void Attach(const SharedBytes& bytes) {
    Count(bytes.size());
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
class FrameReader : public WireReader {
 public:
  explicit FrameReader(const AgentParts& parts)
      : WireReader("KV agent", parts.empty() ? std::span<const std::byte>() : parts.front().span()),
        attached_(parts) {
    if (!parts.empty()) attached_ = attached_.subspan(1);
  }
  SharedBytes Attached() {
    const size_t size = Number<uint32_t>();
    if (!ok() || size == 0) return {};
    if (attached_.empty() || attached_.front().size() != size) {
      Fail(InvalidArgument("KV agent: {} bytes of a record are not the next part", size));
      return {};
    }
    const SharedBytes bytes = attached_.front();
    attached_ = attached_.subspan(1);
    return bytes;
  }
  absl::Status FinishAll() {
    if (ok() && !attached_.empty()) {
      Fail(InvalidArgument("KV agent: {} parts are left over after the end", attached_.size()));
    }
    return Finish();
  }

 private:
  std::span<const SharedBytes> attached_;
};

TierKind ReadKind(WireReader& reader) {
  const auto kind = reader.Number<uint8_t>();
  if (kind > static_cast<uint8_t>(TierKind::kRemote)) {
    reader.Fail(InvalidArgument("KV agent: {} is no kind of tier", kind));
    return TierKind::kHost;
  }
  return static_cast<TierKind>(kind);
}

void WriteStats(const TierStats& stats, WireWriter& writer) {
  for (const int64_t size : {stats.records, stats.blocks, stats.bytes, stats.bytes_limit}) {
    writer.Number(size);
  }
  for (const uint64_t count :
       {stats.hits, stats.misses, stats.evicted, stats.refused, stats.dropped}) {
    writer.Number(count);
  }
}
TierStats ReadStats(WireReader& reader) {
  TierStats stats;
  for (int64_t* size : {&stats.records, &stats.blocks, &stats.bytes, &stats.bytes_limit}) {
    *size = reader.Number<int64_t>();
  }
  for (uint64_t* count :
       {&stats.hits, &stats.misses, &stats.evicted, &stats.refused, &stats.dropped}) {
    *count = reader.Number<uint64_t>();
  }
  return stats;
}

// One pair of functions a message: fields in the order of the struct.

void Write(const AgentPut& message, FrameWriter& writer) {
  writer.Count(message.records.size());
  for (const TierRecord& record : message.records) {
    WriteHash(record.key, writer);
    WriteHash(record.block, writer);
    WriteHash(record.before, writer);
    writer.Number(record.tenant);
    writer.Attach(record.bytes);
  }
}
void Read(AgentPut& message, FrameReader& reader) {
  message.records.resize(reader.Count(kMostAgentItems, kHashBytes + kRecordFieldsBytes, "records"));
  for (TierRecord& record : message.records) {
    record.key = ReadHash(reader);
    record.block = ReadHash(reader);
    record.before = ReadHash(reader);
    record.tenant = reader.Number<uint64_t>();
    record.bytes = reader.Attached();
  }
}

void Write(const AgentGet& message, WireWriter& writer) { WriteHashes(message.keys, writer); }
void Read(AgentGet& message, WireReader& reader) { message.keys = ReadHashes(reader, "keys"); }
void Write(const AgentExists& message, WireWriter& writer) { WriteHashes(message.keys, writer); }
void Read(AgentExists& message, WireReader& reader) { message.keys = ReadHashes(reader, "keys"); }
void Write(const AgentUse& message, WireWriter& writer) { WriteHashes(message.keys, writer); }
void Read(AgentUse& message, WireReader& reader) { message.keys = ReadHashes(reader, "keys"); }
void Write(const AgentErase& message, WireWriter& writer) { WriteHashes(message.blocks, writer); }
void Read(AgentErase& message, WireReader& reader) {
  message.blocks = ReadHashes(reader, "blocks");
}

void Write(const AgentFlush&, WireWriter&) {}
void Read(AgentFlush&, WireReader&) {}
void Write(const AgentStatsQuery&, WireWriter&) {}
void Read(AgentStatsQuery&, WireReader&) {}
void Write(const AgentRenew&, WireWriter&) {}
void Read(AgentRenew&, WireReader&) {}
void Write(const AgentStop&, WireWriter&) {}
void Read(AgentStop&, WireReader&) {}

void WritePeer(const AgentPeer& peer, WireWriter& writer) {
  writer.Text(peer.host);
  writer.Text(peer.endpoint);
  writer.Text(peer.public_key);
}
AgentPeer ReadPeer(WireReader& reader) {
  AgentPeer peer;
  peer.host = reader.Text(kLongestName, "bytes of a host's name");
  peer.endpoint = reader.Text(kLongestEndpoint, "bytes of an endpoint");
  peer.public_key = reader.Text(kKeyText, "characters of a key");
  if (reader.ok()) {
    if (absl::Status status = CheckPeer(peer); !status.ok()) reader.Fail(std::move(status));
  }
  return peer;
}

void Write(const AgentListen& message, WireWriter& writer) { writer.Text(message.address); }
void Read(AgentListen& message, WireReader& reader) {
  message.address = reader.Text(kLongestEndpoint, "bytes of an address");
}
void Write(const AgentMeet& message, WireWriter& writer) {
  writer.Count(message.peers.size());
  for (const AgentPeer& peer : message.peers) WritePeer(peer, writer);
  writer.Number(message.copies);
}
void Read(AgentMeet& message, WireReader& reader) {
  message.peers.resize(reader.Count(kMostAgentPeers, kPeerBytes, "peers"));
  for (AgentPeer& peer : message.peers) peer = ReadPeer(reader);
  message.copies = reader.Number<uint32_t>();
}
void Write(const AgentPing&, WireWriter&) {}
void Read(AgentPing&, WireReader&) {}
void Write(const AgentIdentity& message, WireWriter& writer) { WritePeer(message.self, writer); }
void Read(AgentIdentity& message, WireReader& reader) { message.self = ReadPeer(reader); }

void Write(const AgentStatus& message, WireWriter& writer) {
  writer.Number(static_cast<int32_t>(message.status.code()));
  writer.Text(Message(message.status).substr(0, kLongestText));
}
void Read(AgentStatus& message, WireReader& reader) {
  const auto code = reader.Number<int32_t>();
  const std::string text = reader.Text(kLongestText, "bytes of a status");
  if (code < 0 || code > kHighestCode) {
    reader.Fail(InvalidArgument("KV agent: {} is no status code", code));
    return;
  }
  message.status = absl::Status(static_cast<absl::StatusCode>(code), text);
}

void Write(const AgentFound& message, FrameWriter& writer) {
  writer.Count(message.records.size());
  for (const std::optional<FoundRecord>& found : message.records) {
    writer.Bool(found.has_value());
    if (!found) continue;
    writer.Number(static_cast<uint8_t>(found->from));
    WriteHash(found->block, writer);
    WriteHash(found->before, writer);
    writer.Number(found->tenant);
    writer.Attach(found->bytes);
  }
}
void Read(AgentFound& message, FrameReader& reader) {
  message.records.resize(reader.Count(kMostAgentItems, 1, "found records"));
  for (std::optional<FoundRecord>& found : message.records) {
    if (!reader.Bool()) continue;
    found.emplace();
    found->from = ReadKind(reader);
    found->block = ReadHash(reader);
    found->before = ReadHash(reader);
    found->tenant = reader.Number<uint64_t>();
    found->bytes = reader.Attached();
  }
}

void Write(const AgentExisting& message, WireWriter& writer) {
  writer.Count(message.where.size());
  for (const std::optional<TierKind>& where : message.where) {
    writer.Number(where ? static_cast<uint8_t>(*where) : kNowhere);
  }
}
void Read(AgentExisting& message, WireReader& reader) {
  for (const uint8_t kind : reader.Numbers<uint8_t>(kMostAgentItems, "places")) {
    if (kind > static_cast<uint8_t>(TierKind::kRemote) && kind != kNowhere) {
      reader.Fail(InvalidArgument("KV agent: {} is no kind of tier", kind));
    }
    message.where.push_back(kind == kNowhere ? std::nullopt
                                             : std::optional(static_cast<TierKind>(kind)));
  }
}

void Write(const AgentStats& message, WireWriter& writer) {
  WriteStats(message.all, writer);
  writer.Count(message.by_tier.size());
  for (const auto& [kind, stats] : message.by_tier) {
    writer.Number(static_cast<uint8_t>(kind));
    WriteStats(stats, writer);
  }
}
void Read(AgentStats& message, WireReader& reader) {
  message.all = ReadStats(reader);
  message.by_tier.resize(reader.Count(kMostTiers, 1, "tiers"));
  for (auto& [kind, stats] : message.by_tier) {
    kind = ReadKind(reader);
    stats = ReadStats(reader);
  }
}

void Write(const AgentListQuery& message, WireWriter& writer) {
  writer.Bool(message.after.has_value());
  if (message.after) WriteHash(*message.after, writer);
  writer.Number(message.most);
}
void Read(AgentListQuery& message, WireReader& reader) {
  if (reader.Bool()) message.after = ReadHash(reader);
  message.most = reader.Number<uint32_t>();
}

void Write(const AgentPeekQuery& message, WireWriter& writer) {
  writer.Number(static_cast<uint8_t>(message.tier));
  WriteHashes(message.keys, writer);
}
void Read(AgentPeekQuery& message, WireReader& reader) {
  message.tier = ReadKind(reader);
  message.keys = ReadHashes(reader, "keys");
}

void Write(const AgentForget& message, WireWriter& writer) { WriteHashes(message.blocks, writer); }
void Read(AgentForget& message, WireReader& reader) {
  message.blocks = ReadHashes(reader, "blocks");
}

void Write(const AgentListing& message, WireWriter& writer) {
  writer.Count(message.blocks.size());
  for (const ListedBlock& block : message.blocks) {
    WriteHash(block.block, writer);
    WriteHash(block.before, writer);
    writer.Number(block.tenant);
    writer.Number(block.last_use);
    writer.Count(block.records.size());
    for (const ListedRecord& record : block.records) {
      WriteHash(record.key, writer);
      writer.Number(record.bytes);
      writer.Number(record.tiers);
    }
  }
}
void Read(AgentListing& message, WireReader& reader) {
  message.blocks.resize(reader.Count(kMostAgentItems, kListedBlockBytes, "listed blocks"));
  for (ListedBlock& block : message.blocks) {
    block.block = ReadHash(reader);
    block.before = ReadHash(reader);
    block.tenant = reader.Number<uint64_t>();
    block.last_use = reader.Number<uint64_t>();
    block.records.resize(reader.Count(kLargestAgentFrame, kListedRecordBytes, "listed records"));
    for (ListedRecord& record : block.records) {
      record.key = ReadHash(reader);
      record.bytes = reader.Number<int64_t>();
      record.tiers = reader.Number<uint8_t>();
      if (record.bytes < 0) {
        reader.Fail(InvalidArgument("KV agent: a record of {} bytes", record.bytes));
      }
    }
  }
}

void Write(const AgentPeeked& message, FrameWriter& writer) {
  writer.Count(message.records.size());
  for (const PeekedRecord& record : message.records) {
    writer.Number(static_cast<uint8_t>(record.state));
    writer.Attach(record.bytes);
  }
}
void Read(AgentPeeked& message, FrameReader& reader) {
  message.records.resize(reader.Count(kMostAgentItems, 1 + sizeof(uint32_t), "peeked records"));
  for (PeekedRecord& record : message.records) {
    const auto state = reader.Number<uint8_t>();
    if (state > static_cast<uint8_t>(PeekedRecord::State::kUnreadable)) {
      reader.Fail(InvalidArgument("KV agent: {} is no state of a record", state));
      return;
    }
    record.state = static_cast<PeekedRecord::State>(state);
    record.bytes = reader.Attached();
  }
}

template <size_t kKind = 0>
AgentMessage ReadKindOf(size_t kind, FrameReader& reader) {
  if constexpr (kKind < std::variant_size_v<AgentMessage>) {
    if (kind != kKind) return ReadKindOf<kKind + 1>(kind, reader);
    std::variant_alternative_t<kKind, AgentMessage> message;
    Read(message, reader);
    return message;
  } else {
    reader.Fail(InvalidArgument("KV agent: unknown kind {} of message", kind));
    return AgentFlush();
  }
}

}  // namespace

absl::Status CheckPeer(const AgentPeer& peer) {
  const auto plain = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
           c == '_' || c == '.';
  };
  if (peer.host.empty() || peer.host.size() > kLongestName || peer.host.front() == '.' ||
      !std::all_of(peer.host.begin(), peer.host.end(), plain)) {
    return InvalidArgument("KV agent: a peer's host has a name that is none: {} bytes",
                           peer.host.size());
  }
  const auto printed = [](char c) { return c > ' ' && c < 0x7f; };
  if (!peer.endpoint.starts_with("tcp://") || peer.endpoint.size() > kLongestEndpoint ||
      !std::all_of(peer.endpoint.begin(), peer.endpoint.end(), printed)) {
    return InvalidArgument("KV agent: host {} has no endpoint tcp://ADDRESS:PORT", peer.host);
  }
  uint8_t raw[kHashBytes];
  if (peer.public_key.size() != kKeyText ||
      !std::all_of(peer.public_key.begin(), peer.public_key.end(), printed) ||
      zmq_z85_decode(raw, peer.public_key.c_str()) == nullptr) {
    return InvalidArgument(
        "KV agent: host {} has a key that is none, expected {} characters of Z85", peer.host,
        kKeyText);
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
  writer.Number(kAgentVersion);
  writer.Number(static_cast<uint8_t>(frame.message.index()));
  writer.Number(frame.call);
  std::visit([&](const auto& message) { Write(message, writer); }, frame.message);
  return writer.TakeParts();
}

absl::StatusOr<AgentFrame> DecodeAgentFrame(const AgentParts& parts) {
  FrameReader reader(parts);
  const auto version = reader.Number<uint8_t>();
  if (reader.ok() && version != kAgentVersion) {
    return InvalidArgument("KV agent: message of version {}, this program speaks {}", version,
                           kAgentVersion);
  }
  const auto kind = reader.Number<uint8_t>();
  AgentFrame frame;
  frame.call = reader.Number<uint64_t>();
  if (reader.ok()) frame.message = ReadKindOf(kind, reader);
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
