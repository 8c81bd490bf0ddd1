#include "frontend/conversations/conversation_reader.h"

#include <algorithm>
#include <utility>

#include "core/base/counted.h"
#include "kv_store/base/hex.h"

namespace tandem::frontend {
namespace {

using kv_store::PlacedRecord;

std::string Nameless(std::string_view prefix) {
  return fmt::format(
      "a conversation without a name, at {}",
      kv_store::Hex({reinterpret_cast<const uint8_t*>(prefix.data()), prefix.size()}));
}

absl::Status Named(uint64_t turn, const absl::Status& status) {
  return absl::Status(status.code(), fmt::format("turn {}: {}", turn, Message(status)));
}

}  // namespace

absl::StatusOr<std::vector<std::byte>> ConversationReader::Decrypted(
    const PlacedRecord& record) const {
  const auto bytes = std::as_bytes(std::span(record.bytes));
  if (box_ != nullptr) return box_->Open(std::as_bytes(std::span(record.place)), bytes);
  return std::vector<std::byte>(bytes.begin(), bytes.end());
}

absl::StatusOr<ConversationHead> ConversationReader::ReadHead(const PlacedRecord& record) const {
  if (ConversationPlaces::NumberOfPlace(record.place) != 0U) {
    return absl::DataLossError("its first record is missing");
  }
  TANDEM_ASSIGN_OR_RETURN(const auto bytes, Decrypted(record));
  TANDEM_ASSIGN_OR_RETURN(ConversationHead head, DecodeHead(record.place, bytes));
  if (record.place != ConversationPlaces::Place(places_.Prefix(head.name), 0)) {
    return absl::DataLossError("it lies at another's place");
  }
  return head;
}

absl::Status ConversationReader::AddTurn(const PlacedRecord& record, const WitnessSlot* claim,
                                         ReadConversation& read) const {
  const uint64_t number = read.state.turns + 1;
  if (ConversationPlaces::NumberOfPlace(record.place) != number) {
    return absl::DataLossError(fmt::format("turn {} is missing", number));
  }
  const auto bytes = Decrypted(record);
  if (!bytes.ok()) return Named(number, bytes.status());
  auto turn = DecodeTurn(record.place, *bytes);
  if (!turn.ok()) return Named(number, turn.status());
  if (read.state.instance == 0) read.state.instance = turn->instance;
  if (turn->instance != read.state.instance) {
    return absl::DataLossError(fmt::format("turn {} is of an earlier conversation", number));
  }
  if (turn->before ? *turn->before != read.state.last : read.chained) {
    return absl::DataLossError(fmt::format("turn {} does not follow on the one before", number));
  }
  const TurnHash hash = HashOfTurn(*bytes);
  if (claim != nullptr && claim->turns == number && claim->last &&
      *claim->last != places_.Keyed(hash)) {
    return absl::DataLossError(fmt::format("turn {} is not the one that was written last", number));
  }
  const absl::Status applied = Apply(std::move(turn->delta), read.conversation);
  if (!applied.ok()) return Named(number, applied);
  read.chained = read.chained || turn->before.has_value();
  read.state.turns = number;
  read.state.last = hash;
  return absl::OkStatus();
}

ReadConversation ConversationReader::Read(std::span<const PlacedRecord> records,
                                          const WitnessSlot* claim) const {
  ReadConversation read;
  read.described =
      Nameless(std::string_view(records[0].place).substr(0, ConversationPlaces::kPrefixBytes));
  const auto head = ReadHead(records[0]);
  if (absl::IsFailedPrecondition(head.status())) {
    read.status = head.status();
    return read;
  }
  if (head.ok()) {
    read.named = true;
    read.name = head->name;
    read.described = fmt::format(
        "conversation \"{}\"{}", read.name.id,
        read.name.tenant.empty() ? "" : fmt::format(" of tenant \"{}\"", read.name.tenant));
    read.state.instance = head->instance;
    read.written = head->turns;
  }
  const bool other = claim != nullptr && claim->instance != 0 && read.state.instance != 0 &&
                     claim->instance != read.state.instance;
  const WitnessSlot* const later =
      other && WentOn(read.state.instance, claim->instance) ? claim : nullptr;
  const bool earlier = other && WentOn(claim->instance, read.state.instance);
  const WitnessSlot* const another = other && later == nullptr && !earlier ? claim : nullptr;
  if (other) claim = nullptr;
  const bool headless = ConversationPlaces::NumberOfPlace(records[0].place) != 0U;
  absl::Status gap;
  for (const PlacedRecord& record : records.subspan(headless ? 0 : 1)) {
    if (head.ok() && read.state.turns == head->turns) {
      gap = absl::DataLossError(fmt::format("it has {} turns, and more are there", head->turns));
      break;
    }
    gap = AddTurn(record, claim, read);
    if (!gap.ok()) break;
  }
  read.rest = !gap.ok();
  if (read.state.instance == 0 && claim != nullptr) read.state.instance = claim->instance;
  if (absl::IsFailedPrecondition(gap)) {
    read.status = gap;
    return read;
  }
  if (later != nullptr) {
    read.status = absl::DataLossError("it was gone on with, and what it has since is lost");
    read.state.instance = later->instance;
    read.written = std::max({read.written, read.state.turns, later->turns});
    return read;
  }
  if (another != nullptr) {
    read.status =
        absl::DataLossError(fmt::format("another one of its name, of {}, was written, and is lost",
                                        Counted(static_cast<int64_t>(another->turns), "turn")));
    read.written = another->turns;
    read.lost = another->instance;
    return read;
  }
  if (claim != nullptr) read.written = std::max(read.written, claim->turns);
  read.written = std::max(read.written, read.state.turns);
  if (!head.ok()) {
    read.status = head.status();
  } else if (!gap.ok()) {
    read.status = gap;
  } else if (read.state.turns < read.written) {
    read.status = absl::DataLossError(
        fmt::format("{} turns were written, and {} are there", read.written, read.state.turns));
  } else if (head->last && *head->last != read.state.last) {
    read.status = absl::DataLossError("its last turn is not the one that was written");
  }
  return read;
}

uint64_t ConversationReader::InstanceOf(const PlacedRecord& record) const {
  const auto bytes = Decrypted(record);
  if (!bytes.ok()) return 0;
  if (ConversationPlaces::NumberOfPlace(record.place) == 0U) {
    const auto head = DecodeHead(record.place, *bytes);
    return head.ok() ? head->instance : 0;
  }
  const auto turn = DecodeTurn(record.place, *bytes);
  return turn.ok() ? turn->instance : 0;
}

ReadConversation ConversationReader::Lost(const std::string& prefix, const WitnessSlot& claim) {
  ReadConversation read;
  read.described = Nameless(prefix);
  read.state.instance = claim.instance;
  read.written = claim.turns;
  read.status = absl::DataLossError(fmt::format("all of its {} turns are missing", claim.turns));
  return read;
}

}  // namespace tandem::frontend
