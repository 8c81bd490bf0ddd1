#include <cstdlib>
#include <string_view>

#include "frontend/conversations/conversation_codec.h"
#include "tests/support/conversation_checksum.h"

/// Records of conversations: any bytes, with the checksum put right so that it does not keep the
/// fuzzer out, are refused or come back as they were, and are never applied beyond what is there.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tandem::frontend;
  constexpr std::string_view kPlace = "place";
  const std::span raw(reinterpret_cast<const std::byte*>(data), size);
  for (const bool right : {false, true}) {
    std::vector<std::byte> record(raw.begin(), raw.end());
    if (right) record = tandem::testing::WithConversationChecksum(kPlace, record);
    if (const auto head = DecodeHead(kPlace, record); head.ok()) {
      if (EncodeHead(kPlace, *head) != record) std::abort();
    }
    if (auto turn = DecodeTurn(kPlace, record); turn.ok()) {
      if (EncodeTurn(kPlace, turn->instance, turn->before, turn->delta) != record) std::abort();
      Conversation conversation;
      static_cast<void>(Apply(std::move(turn->delta), conversation));
      if (conversation.first > conversation.messages.size()) std::abort();
    }
  }
  return 0;
}
