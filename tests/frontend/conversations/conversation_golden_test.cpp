#include <gtest/gtest.h>

#include <algorithm>

#include "frontend/conversations/conversation_codec.h"
#include "frontend/conversations/conversation_places.h"
#include "frontend/conversations/conversation_store.h"
#include "tests/support/hex.h"
#include "tests/support/temporary_directory.h"

namespace tandem::frontend {
namespace {

using testing::FromHex;
using testing::Hex;

// What an earlier build has written must be read, so it stays as it was, byte by byte.

TEST(ConversationCodec, TheBytesStayAsTheyWere) {
  const ConversationHead head{
      .name = {.tenant = "tenant", .id = "name"}, .instance = 1, .turns = 2, .last = std::nullopt};
  EXPECT_EQ(Hex(EncodeHead("place", head)),
            "010600000074656e616e74040000006e616d6501000000000000000200000000000000931d71"
            "d8dbea4530f9df709c4dbbe74f");
  ConversationDelta delta{
      .messages = {{.role = "user", .content = "Hi"}, {.role = "assistant", .content = ""}},
      .first = 1,
      .dropped_tokens = 2,
      .kept_segments = 3,
      .segments = {{.text = "a", .from_template = true}, {.text = "b", .from_template = false}},
      .kept_tokens = 4,
      .tokens = {5, 6},
      .attention = {}};
  EXPECT_EQ(Hex(EncodeTurn("place", 7, std::nullopt, delta)),
            "0107000000000000000100000000000000020000000000000002000000040000007573657202"
            "000000486909000000617373697374616e740000000003000000000000000200000001010000"
            "0061000100000062040000000000000002000000050000000600000029ff6078afe2d1b86640"
            "037f8f16f06c");
  delta.attention = "sparse:window=64";
  EXPECT_EQ(Hex(EncodeTurn("place", 7, TurnHash{1}, delta)),
            "0307000000000000000100000000000000020000000000000002000000040000007573657202"
            "000000486909000000617373697374616e740000000003000000000000000200000001010000"
            "0061000100000062040000000000000002000000050000000600000010000000737061727365"
            "3a77696e646f773d363401000000000000000000000000000000bda1d0f7168b910a10d6a91c"
            "eec63a6a");
}

TEST(ConversationPlaces, TheIdentityStaysAsItWas) {
  constexpr std::string_view kPlain =
      "0100db3de3f9ff5a4a5ad04c58b0d4346ac60000000000000000000000000000000056c4f2a9"
      "24b7ceb2d2eb1f0eaa44faa8";
  constexpr std::string_view kEncrypted =
      "01018d759b78366000a026b75fb454df6f421ee8a41937d876fa897ada80eb3800e27a31116d"
      "7bfe745bdff88d430c258055";
  const kv_store::EncryptedBox box(testing::Counted<kv_store::StateKey>(1));
  const auto plain = ConversationPlaces::Read(FromHex(kPlain), nullptr);
  ASSERT_TRUE(plain.ok()) << plain.status();
  EXPECT_EQ(Hex(plain->identity()), kPlain);
  const auto encrypted = ConversationPlaces::Read(FromHex(kEncrypted), &box);
  ASSERT_TRUE(encrypted.ok()) << encrypted.status();
  EXPECT_EQ(Hex(encrypted->identity()), kEncrypted);
}

TEST(ConversationStore, WhatItErasesIsWrittenAsItWas) {
  const testing::TemporaryDirectory folder;
  auto opened = ConversationStore::Open({.folder = folder.path() + "/store"});
  ASSERT_TRUE(opened.ok()) << opened.status();
  const ConversationStore::Change erasure = ConversationStore::Erasure{
      {.tenant = "t", .id = "c"}, {testing::Counted<kv_store::BlockHash>(1)}};
  ASSERT_TRUE(opened->store->Write({&erasure, 1}).ok());
  const auto records = opened->store->ReadAll();
  ASSERT_TRUE(records.ok()) << records.status();
  const auto found = std::find_if(records->begin(), records->end(), [](const auto& record) {
    return record.place[0] == ConversationPlaces::kErasure;
  });
  ASSERT_NE(found, records->end());
  std::string bytes = found->bytes;
  ASSERT_GT(bytes.size(), 21U);
  std::fill_n(bytes.begin() + 5, 16, 'x');  // a hash with the store's random salt
  EXPECT_EQ(Hex(std::as_bytes(std::span(bytes))),
            "1100000043787878787878787878787878787878780100000001020304050607"
            "08090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20");
}

}  // namespace
}  // namespace tandem::frontend
