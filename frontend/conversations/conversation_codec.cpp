#include "frontend/conversations/conversation_codec.h"

#include <sodium.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>

#include "core/base/wire.h"

namespace tandem::frontend {

using core::AtMost;

namespace {

constexpr uint8_t kUnchained = 1;
constexpr uint8_t kChained = 2;  // the same fields, and a hash behind them
constexpr uint8_t kWithAttention =
    3;  // of a turn whose attention is not dense: that before the hash
constexpr size_t kAttentionLimit = 256;  // bytes of its text
constexpr size_t kChecksumBytes = crypto_generichash_BYTES_MIN;
constexpr size_t kNameLimit = 4096;  // bytes of a tenant's or conversation's name, or of a role

using Checksum = std::array<std::byte, kChecksumBytes>;

Checksum ChecksumOf(std::string_view place, std::span<const std::byte> versioned) {
  Checksum sum{};
  const uint64_t place_bytes = place.size();
  crypto_generichash_state state;
  crypto_generichash_init(&state, nullptr, 0, sum.size());
  crypto_generichash_update(&state, reinterpret_cast<const unsigned char*>(&place_bytes),
                            sizeof(place_bytes));
  crypto_generichash_update(&state, reinterpret_cast<const unsigned char*>(place.data()),
                            place.size());
  crypto_generichash_update(&state, reinterpret_cast<const unsigned char*>(versioned.data()),
                            versioned.size());
  crypto_generichash_final(&state, reinterpret_cast<unsigned char*>(sum.data()), sum.size());
  return sum;
}

template <typename... Field>
std::vector<std::byte> Record(std::string_view place, uint8_t version,
                              const std::optional<TurnHash>& hash, const Field&... fields) {
  core::WireWriter writer;
  writer(version, fields...);
  if (hash) writer(*hash);
  const Checksum sum = ChecksumOf(place, writer.bytes());
  writer.Raw(sum);
  return writer.Take();
}

struct CheckedRecord {
  uint8_t version = 0;
  std::span<const std::byte> fields;
  std::optional<TurnHash> hash;
};

/// What is in a record whose version is known and whose checksum is right.
absl::StatusOr<CheckedRecord> Checked(std::string_view place, std::span<const std::byte> record,
                                      uint8_t newest) {
  if (record.size() < 1 + kChecksumBytes) {
    return absl::DataLossError(
        fmt::format("a record of {} bytes; it has at least {}", record.size(), 1 + kChecksumBytes));
  }
  if (record[0] > std::byte{newest}) {
    return FailedPrecondition("a record of version {}; this program reads versions up to {}",
                              static_cast<int>(record[0]), newest);
  }
  const std::span<const std::byte> versioned = record.first(record.size() - kChecksumBytes);
  const Checksum sum = ChecksumOf(place, versioned);
  if (record[0] == std::byte{0} ||
      !std::equal(sum.begin(), sum.end(), record.end() - kChecksumBytes)) {
    return absl::DataLossError(
        fmt::format("a record of {} bytes whose checksum is wrong", record.size()));
  }
  CheckedRecord checked{.version = static_cast<uint8_t>(record[0]),
                        .fields = versioned.subspan(1),
                        .hash = std::nullopt};
  if (record[0] == std::byte{kUnchained}) return checked;
  if (checked.fields.size() < sizeof(TurnHash)) return absl::DataLossError("a record without hash");
  std::memcpy(checked.hash.emplace().data(), checked.fields.last(sizeof(TurnHash)).data(),
              sizeof(TurnHash));
  checked.fields = checked.fields.first(checked.fields.size() - sizeof(TurnHash));
  return checked;
}

template <typename Message>
absl::StatusOr<Message> Read(std::string_view what, const CheckedRecord& checked) {
  absl::StatusOr<Message> message = core::Decode<Message>(what, checked.fields);
  // Fields with a right checksum make no sense.
  if (!message.ok()) return absl::DataLossError(message.status().message());
  return message;
}

uint8_t VersionOf(const std::optional<TurnHash>& hash) { return hash ? kChained : kUnchained; }

}  // namespace

template <typename Archive>
void Fields(Archive& archive, ConversationHead& head) {
  archive(AtMost(head.name.tenant, kNameLimit, "bytes of the tenant's name"),
          AtMost(head.name.id, kNameLimit, "bytes of the name"), head.instance, head.turns);
}

template <typename Archive>
void Fields(Archive& archive, ChatMessage& message) {
  archive(AtMost(message.role, kNameLimit, "bytes of a role"),
          AtMost(message.content, kNoLimit, "bytes of a message"));
}

template <typename Archive>
void Fields(Archive& archive, TextSegment& segment) {
  archive(segment.from_template, AtMost(segment.text, kNoLimit, "bytes of a segment"));
}

template <typename Archive>
void Fields(Archive& archive, ConversationDelta& delta) {
  archive(delta.first, delta.dropped_tokens, AtMost(delta.messages, kNoLimit, "messages"),
          delta.kept_segments, AtMost(delta.segments, kNoLimit, "segments"), delta.kept_tokens,
          AtMost(delta.tokens, kNoLimit, "tokens"));
}

template <typename Archive>
void Fields(Archive& archive, ConversationTurnRecord& turn) {
  archive(turn.instance, turn.delta);
}

/// A turn of version 3.
struct TurnWithAttention {
  ConversationTurnRecord turn;
};

template <typename Archive>
void Fields(Archive& archive, TurnWithAttention& with) {
  archive(with.turn.instance, with.turn.delta,
          AtMost(with.turn.delta.attention, kAttentionLimit, "bytes of the attention's form"));
}

std::vector<std::byte> EncodeHead(std::string_view place, const ConversationHead& head) {
  return Record(place, VersionOf(head.last), head.last, head);
}

std::vector<std::byte> EncodeTurn(std::string_view place, uint64_t instance,
                                  const std::optional<TurnHash>& before,
                                  const ConversationDelta& delta) {
  if (delta.attention.empty()) return Record(place, VersionOf(before), before, instance, delta);
  const TurnWithAttention with{{.instance = instance, .before = before, .delta = delta}};
  return Record(place, kWithAttention, before.value_or(TurnHash{}), with);
}

TurnHash HashOfTurn(std::span<const std::byte> record) {
  TurnHash hash{};
  std::memcpy(hash.data(), record.last(hash.size()).data(), hash.size());
  return hash;
}

absl::StatusOr<ConversationHead> DecodeHead(std::string_view place,
                                            std::span<const std::byte> record) {
  TANDEM_ASSIGN_OR_RETURN(const CheckedRecord checked, Checked(place, record, kChained));
  TANDEM_ASSIGN_OR_RETURN(auto head, Read<ConversationHead>("head of a conversation", checked));
  head.last = checked.hash;
  return head;
}

absl::StatusOr<ConversationTurnRecord> DecodeTurn(std::string_view place,
                                                  std::span<const std::byte> record) {
  TANDEM_ASSIGN_OR_RETURN(const CheckedRecord checked, Checked(place, record, kWithAttention));
  constexpr std::string_view kWhat = "turn of a conversation";
  TurnWithAttention read;
  if (checked.version == kWithAttention) {
    TANDEM_ASSIGN_OR_RETURN(read, Read<TurnWithAttention>(kWhat, checked));
    if (read.turn.delta.attention.empty()) {
      return absl::DataLossError("a turn of version 3 without a form of attention");
    }
  } else {
    TANDEM_ASSIGN_OR_RETURN(read.turn, Read<ConversationTurnRecord>(kWhat, checked));
  }
  read.turn.before = checked.hash;
  return std::move(read.turn);
}

}  // namespace tandem::frontend
