#include <gtest/gtest.h>

#include "kv_store/agent_link/agent_codec.h"
#include "tests/support/hex.h"

namespace tandem::kv_store {
namespace {

using testing::Counted;
using testing::FromHex;

// Agents of an earlier build answer this one, so what is sent must stay as it was, byte by byte.

struct Golden {
  AgentMessage message;
  std::string_view hex;  // of the parts, with a blank between two
};

BlockHash Hash(uint8_t first) { return Counted<BlockHash>(first); }
SharedBytes Bytes(std::string_view hex) { return FromHex(hex); }

TierStats Stats(int64_t first) {
  const auto count = [&] { return static_cast<uint64_t>(++first); };
  TierStats stats;
  for (int64_t* size : {&stats.records, &stats.blocks, &stats.bytes, &stats.bytes_limit}) {
    *size = first++;
  }
  stats.hits = count();
  stats.misses = count();
  stats.evicted = count();
  stats.refused = count();
  stats.dropped = count();
  return stats;
}

AgentPeer Peer(std::string_view host) {
  return {.host = std::string(host),
          .endpoint = "tcp://10.0.0.1:40123",
          .public_key = "rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7"};
}

std::vector<Golden> AllKinds() {
  const StateId state = Counted<StateId>(0x30);
  const JournalPosition here{
      .branches = {{.id = 0x1122334455667788, .begun = 0}, {.id = 0x99aabbccddeeff00, .begun = 7}},
      .sequence = 9};
  const std::vector<PlacedRecord> records = {{"C1", "bytes"}, {"J", ""}};
  using Kind = JournalChange::Kind;
  using State = PeekedRecord::State;
  return {
      {AgentPut{
           .records =
               {{.key = Hash(1),
                 .block = Hash(2),
                 .before = Hash(3),
                 .tenant = 4,
                 .bytes = Bytes("abcdef")},
                {.key = Hash(5), .block = Hash(6), .before = Hash(7), .tenant = 8, .bytes = {}}}},
       "06000807060504030201020000000102030405060708090a0b0c0d0e0f101112131415161718"
       "191a1b1c1d1e1f2002030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
       "2021030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20212204000000"
       "000000000300000005060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f202122"
       "2324060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f2021222324250708090a"
       "0b0c0d0e0f101112131415161718191a1b1c1d1e1f2021222324252608000000000000000000"
       "0000 abcdef"},
      {AgentGet{.keys = {Hash(1), Hash(2)}},
       "06010807060504030201020000000102030405060708090a0b0c0d0e0f101112131415161718"
       "191a1b1c1d1e1f2002030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
       "2021"},
      {AgentExists{.keys = {Hash(3)}},
       "0602080706050403020101000000030405060708090a0b0c0d0e0f101112131415161718191a"
       "1b1c1d1e1f202122"},
      {AgentUse{.keys = {Hash(4)}},
       "06030807060504030201010000000405060708090a0b0c0d0e0f101112131415161718191a1b"
       "1c1d1e1f20212223"},
      {AgentFlush{}, "06040807060504030201"},
      {AgentErase{.blocks = {Hash(5)}},
       "060508070605040302010100000005060708090a0b0c0d0e0f101112131415161718191a1b1c"
       "1d1e1f2021222324"},
      {AgentStatsQuery{}, "06060807060504030201"},
      {AgentRenew{}, "06070807060504030201"},
      {AgentStop{}, "06080807060504030201"},
      {AgentListen{.address = "fd00::1"}, "0609080706050403020107000000666430303a3a31"},
      {AgentIntroduction{.peers = {Peer("a"), Peer("b")}, .copies = 2},
       "060a0807060504030201020000000100000061140000007463703a2f2f31302e302e302e313a"
       "34303132332800000072713a724d3e7d553f404c6e7334374531256b522e6f406e2546636d6d"
       "734c2f407b48385d7966370100000062140000007463703a2f2f31302e302e302e313a343031"
       "32332800000072713a724d3e7d553f404c6e7334374531256b522e6f406e2546636d6d734c2f"
       "407b48385d79663702000000"},
      {AgentPing{}, "060b0807060504030201"},
      {AgentListQuery{.after = Hash(6), .most = 7},
       "060c080706050403020101060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20"
       "212223242507000000"},
      {AgentPeekQuery{.tier = TierKind::kRemote, .keys = {Hash(7)}},
       "060d080706050403020102010000000708090a0b0c0d0e0f101112131415161718191a1b1c1d"
       "1e1f20212223242526"},
      {AgentDrop{.keys = {Hash(8)}},
       "060e08070605040302010100000008090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
       "2021222324252627"},
      {AgentStatus{.status = ResourceExhausted("full")},
       "060f0807060504030201080000000400000066756c6c"},
      {AgentFound{.records = {std::nullopt, FoundRecord{.bytes = Bytes("0123"),
                                                        .from = TierKind::kDisk,
                                                        .block = Hash(1),
                                                        .before = Hash(2),
                                                        .tenant = 3}}},
       "06100807060504030201020000000001010102030405060708090a0b0c0d0e0f101112131415"
       "161718191a1b1c1d1e1f2002030405060708090a0b0c0d0e0f101112131415161718191a1b1c"
       "1d1e1f2021030000000000000002000000 0123"},
      {AgentExisting{.where = {TierKind::kHost, TierKind::kDisk, std::nullopt, TierKind::kRemote}},
       "06110807060504030201040000000001ff02"},
      {AgentStats{.all = Stats(1), .by_tier = {{TierKind::kDisk, Stats(100)}}},
       "0612080706050403020101000000000000000200000000000000030000000000000004000000"
       "0000000006000000000000000700000000000000080000000000000009000000000000000a00"
       "0000000000000100000001640000000000000065000000000000006600000000000000670000"
       "000000000069000000000000006a000000000000006b000000000000006c000000000000006d"
       "00000000000000"},
      {AgentIdentity{.self = Peer("c")},
       "061308070605040302010100000063140000007463703a2f2f31302e302e302e313a34303132"
       "332800000072713a724d3e7d553f404c6e7334374531256b522e6f406e2546636d6d734c2f40"
       "7b48385d796637"},
      {AgentListing{.blocks = {{.block = Hash(1),
                                .before = Hash(2),
                                .tenant = 3,
                                .last_use = 4,
                                .records = {{.key = Hash(5), .bytes = 6, .tiers = 7}}}}},
       "06140807060504030201010000000102030405060708090a0b0c0d0e0f101112131415161718"
       "191a1b1c1d1e1f2002030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
       "2021030000000000000004000000000000000100000005060708090a0b0c0d0e0f1011121314"
       "15161718191a1b1c1d1e1f2021222324060000000000000007"},
      {AgentPeeked{.records = {{.state = State::kMissing, .bytes = {}},
                               {.state = State::kThere, .bytes = Bytes("4567")},
                               {.state = State::kUnreadable, .bytes = {}}}},
       "0615080706050403020103000000000000000001020000000200000000 4567"},
      {AgentCopyFind{.state = state, .patient = true},
       "06160807060504030201303132333435363738393a3b3c3d3e3f01"},
      {AgentCopyAppend{
           .to = "host",
           .state = state,
           .entries = {{.at = here,
                        .changes = {{.kind = Kind::kPut, .place = "C1", .bytes = "x"},
                                    {.kind = Kind::kDeleteRange, .place = "C", .bytes = "D"}}}}},
       "0617080706050403020104000000686f7374303132333435363738393a3b3c3d3e3f01000000"
       "0900000000000000020000008877665544332211000000000000000000ffeeddccbbaa990700"
       "000000000000020000000002000000433101000000780201000000430100000044"},
      {AgentCopyPart{.to = "host",
                     .state = state,
                     .part = {.session = 1,
                              .number = 2,
                              .last = true,
                              .overwrite = false,
                              .at = here,
                              .records = records}},
       "0618080706050403020104000000686f7374303132333435363738393a3b3c3d3e3f01000000"
       "0000000002000000010009000000000000000200000088776655443322110000000000000000"
       "00ffeeddccbbaa99070000000000000002000000020000004331050000006279746573010000"
       "004a00000000"},
      {AgentCopyRead{.to = "host", .state = state, .behind = "C1"},
       "0619080706050403020104000000686f7374303132333435363738393a3b3c3d3e3f02000000"
       "4331"},
      {AgentCopyErase{.state = state, .at = here, .ranges = {{"C", "D"}}},
       "061a0807060504030201303132333435363738393a3b3c3d3e3f090000000000000002000000"
       "8877665544332211000000000000000000ffeeddccbbaa990700000000000000010000000100"
       "0000430100000044"},
      {AgentCopyFence{.state = state, .at = here},
       "061b0807060504030201303132333435363738393a3b3c3d3e3f090000000000000002000000"
       "8877665544332211000000000000000000ffeeddccbbaa990700000000000000"},
      {AgentCopies{.self = "self",
                   .keeper = "keeper",
                   .copies = {{.host = "a",
                               .copy = {.state = state,
                                        .condition = JournalCopy::Condition::kFence,
                                        .position = here,
                                        .attended = true}},
                              {.host = "b",
                               .copy = {.state = {},
                                        .condition = JournalCopy::Condition::kDamaged,
                                        .position = std::nullopt,
                                        .attended = false}}},
                   .silent = {"c"}},
       "061c08070605040302010400000073656c66060000006b656570657202000000010000006130"
       "3132333435363738393a3b3c3d3e3f0101090000000000000002000000887766554433221100"
       "0000000000000000ffeeddccbbaa990700000000000000010100000062000000000000000000"
       "00000000000000020000010000000100000063"},
      {AgentCopyAt{.position = here},
       "061d080706050403020109000000000000000200000088776655443322110000000000000000"
       "00ffeeddccbbaa990700000000000000"},
      {AgentCopyPage{.page = {.at = here, .more = true, .records = records}},
       "061e080706050403020109000000000000000200000088776655443322110000000000000000"
       "00ffeeddccbbaa99070000000000000001020000000200000043310500000062797465730100"
       "00004a00000000"}};
}

TEST(AgentCodec, TheBytesOfEveryMessageStayAsTheyWere) {
  const std::vector<Golden> all = AllKinds();
  ASSERT_EQ(all.size(), std::variant_size_v<AgentMessage>);
  for (size_t kind = 0; kind < all.size(); ++kind) {
    ASSERT_EQ(all[kind].message.index(), kind);
    const AgentParts parts =
        EncodeAgentFrame({.call = 0x0102030405060708, .message = all[kind].message});
    std::string hex;
    for (const SharedBytes& part : parts)
      hex += (hex.empty() ? "" : " ") + testing::Hex(part.span());
    EXPECT_EQ(hex, all[kind].hex) << "kind " << kind;
    const auto decoded = DecodeAgentFrame(parts);
    ASSERT_TRUE(decoded.ok()) << decoded.status();
    EXPECT_EQ(EncodeAgentFrame(*decoded), parts);
  }
}

TEST(JournalPosition, ItsRecordStaysAsItWas) {
  const JournalPosition position{.branches = {{.id = 0x1122334455667788, .begun = 3}},
                                 .sequence = 9};
  constexpr std::string_view kHex =
      "0109000000000000000100000088776655443322110300000000000000e9573bd068975b0406"
      "ccc46c8fe08b13";
  const std::string record = EncodePosition(position);
  EXPECT_EQ(testing::Hex(std::as_bytes(std::span(record))), kHex);
  EXPECT_EQ(*DecodePosition(record), position);
}

}  // namespace
}  // namespace tandem::kv_store
