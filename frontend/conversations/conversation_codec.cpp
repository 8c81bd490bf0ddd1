#include "frontend/conversations/conversation_codec.h"

#include <sodium.h>

#include <algorithm>
#include <array>
#include <limits>

#include "core/base/wire.h"

namespace tandem::frontend {
namespace {

using core::WireReader;
using core::WireWriter;

constexpr uint8_t kVersion = 1;
constexpr size_t kChecksumBytes = crypto_generichash_BYTES_MIN;
constexpr size_t kNameLimit = 4096;  // bytes of a tenant's or conversation's name, or of a role
constexpr size_t kNoLimit = std::numeric_limits<uint32_t>::max();  // but the record's own size

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

std::vector<std::byte> Finished(std::string_view place, WireWriter writer) {
  std::vector<std::byte> record = writer.Take();
  const Checksum sum = ChecksumOf(place, record);
  record.insert(record.end(), sum.begin(), sum.end());
  return record;
}

/// The fields of a record whose version is known and whose checksum is right.
absl::StatusOr<std::span<const std::byte>> Fields(std::string_view place,
                                                  std::span<const std::byte> record) {
  if (record.size() < 1 + kChecksumBytes) {
    return absl::DataLossError(
        fmt::format("a record of {} bytes; it has at least {}", record.size(), 1 + kChecksumBytes));
  }
  if (record[0] > std::byte{kVersion}) {
    return FailedPrecondition("a record of version {}; this program reads versions up to {}",
                              static_cast<int>(record[0]), kVersion);
  }
  const std::span<const std::byte> versioned = record.first(record.size() - kChecksumBytes);
  const Checksum sum = ChecksumOf(place, versioned);
  if (record[0] != std::byte{kVersion} ||
      !std::equal(sum.begin(), sum.end(), record.end() - kChecksumBytes)) {
    return absl::DataLossError(
        fmt::format("a record of {} bytes whose checksum is wrong", record.size()));
  }
  return versioned.subspan(1);
}

/// Errors of a reader mean that fields with a right checksum make no sense.
absl::Status Damaged(const absl::Status& status) {
  return status.ok() ? status : absl::DataLossError(status.message());
}

}  // namespace

std::vector<std::byte> EncodeHead(std::string_view place, const ConversationHead& head) {
  WireWriter writer;
  writer.Number(kVersion);
  writer.Text(head.name.tenant);
  writer.Text(head.name.id);
  writer.Number(head.instance);
  writer.Number(head.turns);
  return Finished(place, std::move(writer));
}

std::vector<std::byte> EncodeTurn(std::string_view place, uint64_t instance,
                                  const ConversationDelta& delta) {
  WireWriter writer;
  writer.Number(kVersion);
  writer.Number(instance);
  writer.Number(delta.first);
  writer.Number(delta.dropped_tokens);
  writer.Count(delta.messages.size());
  for (const ChatMessage& message : delta.messages) {
    writer.Text(message.role);
    writer.Text(message.content);
  }
  writer.Number(delta.kept_segments);
  writer.Count(delta.segments.size());
  for (const TextSegment& segment : delta.segments) {
    writer.Bool(segment.from_template);
    writer.Text(segment.text);
  }
  writer.Number(delta.kept_tokens);
  writer.Numbers(std::span<const int32_t>(delta.tokens));
  return Finished(place, std::move(writer));
}

absl::StatusOr<ConversationHead> DecodeHead(std::string_view place,
                                            std::span<const std::byte> record) {
  TANDEM_ASSIGN_OR_RETURN(const auto fields, Fields(place, record));
  WireReader reader("head of a conversation", fields);
  ConversationHead head;
  head.name.tenant = reader.Text(kNameLimit, "bytes of the tenant's name");
  head.name.id = reader.Text(kNameLimit, "bytes of the name");
  head.instance = reader.Number<uint64_t>();
  head.turns = reader.Number<uint64_t>();
  TANDEM_RETURN_IF_ERROR(Damaged(reader.Finish()));
  return head;
}

absl::StatusOr<ConversationTurnRecord> DecodeTurn(std::string_view place,
                                                  std::span<const std::byte> record) {
  constexpr size_t kMessageBytes = 8;  // at least
  constexpr size_t kSegmentBytes = 5;
  TANDEM_ASSIGN_OR_RETURN(const auto fields, Fields(place, record));
  WireReader reader("turn of a conversation", fields);
  ConversationTurnRecord turn;
  ConversationDelta& delta = turn.delta;
  turn.instance = reader.Number<uint64_t>();
  delta.first = reader.Number<uint64_t>();
  delta.dropped_tokens = reader.Number<int64_t>();
  delta.messages.resize(reader.Count(kNoLimit, kMessageBytes, "messages"));
  for (ChatMessage& message : delta.messages) {
    message.role = reader.Text(kNameLimit, "bytes of a role");
    message.content = reader.Text(kNoLimit, "bytes of a message");
  }
  delta.kept_segments = reader.Number<uint64_t>();
  delta.segments.resize(reader.Count(kNoLimit, kSegmentBytes, "segments"));
  for (TextSegment& segment : delta.segments) {
    segment.from_template = reader.Bool();
    segment.text = reader.Text(kNoLimit, "bytes of a segment");
  }
  delta.kept_tokens = reader.Number<uint64_t>();
  delta.tokens = reader.Numbers<int32_t>(kNoLimit, "tokens");
  TANDEM_RETURN_IF_ERROR(Damaged(reader.Finish()));
  return turn;
}

}  // namespace tandem::frontend
