#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "frontend/conversations/conversation_codec.h"
#include "frontend/conversations/conversation_places.h"
#include "frontend/conversations/conversation_witness.h"
#include "kv_store/base/encrypted_box.h"
#include "kv_store/journal/conversation_database.h"

/// Conversations out of the records of a store, as far as they are right.
namespace tandem::frontend {

/// How far a conversation has come.
struct ConversationState {
  uint64_t instance = 0;  // random; one more each time that it is gone on with after a damage
  uint64_t turns = 0;
  TurnHash last{};  // of the last turn
};

struct ReadConversation {
  std::string described;  // by name, as soon as that is known
  bool named = false;     // the head could be read
  ConversationName name;
  ConversationState state;    // of what was kept
  bool chained = false;       // some turn says which one comes before it
  uint64_t written = 0;       // turns, as far as anything tells
  uint64_t lost = 0;          // instance of another of its name, which `written` is of; 0: none
  bool rest = false;          // there are records that are not kept
  Conversation conversation;  // the first turns that are right
  /// OK; kDataLoss: not all turns that were written are kept; kFailedPrecondition: a newer program
  /// has written it.
  absl::Status status;
};

class ConversationReader {
 public:
  /// Both must outlive it. `box`: null where nothing is encrypted.
  ConversationReader(const ConversationPlaces& places, const kv_store::EncryptedBox* box)
      : places_(places), box_(box) {}

  /// `records`: of one conversation, by place, one at least. `claim`: what a witness says of it,
  /// null: nothing.
  ReadConversation Read(std::span<const kv_store::PlacedRecord> records,
                        const WitnessSlot* claim) const;
  /// The same of one that has no records.
  static ReadConversation Lost(const std::string& prefix, const WitnessSlot& claim);
  /// Of which conversation of its name a record is; 0 if that cannot be known.
  uint64_t InstanceOf(const kv_store::PlacedRecord& record) const;

 private:
  absl::StatusOr<std::vector<std::byte>> Decrypted(const kv_store::PlacedRecord& record) const;
  /// Fills in name and instance; gives the turns that there are.
  absl::StatusOr<ConversationHead> ReadHead(const kv_store::PlacedRecord& record) const;
  absl::Status AddTurn(const kv_store::PlacedRecord& record, const WitnessSlot* claim,
                       ReadConversation& read) const;

  const ConversationPlaces& places_;
  const kv_store::EncryptedBox* const box_;
};

/// Calls visit(prefix, records) for the records of each conversation, and of everything else.
template <typename Visit>
void ForEachGroup(std::span<const kv_store::PlacedRecord> records, const Visit& visit) {
  const auto prefix_of = [](const kv_store::PlacedRecord& record) {
    return std::string_view(record.place).substr(0, ConversationPlaces::kPrefixBytes);
  };
  while (!records.empty()) {
    size_t count = 1;
    const std::string_view prefix = prefix_of(records[0]);
    while (count < records.size() && prefix_of(records[count]) == prefix) ++count;
    visit(prefix, records.first(count));
    records = records.subspan(count);
  }
}

}  // namespace tandem::frontend
