#include <gtest/gtest.h>

#include "core/base/retry_after.h"
#include "parallel/engine/engine_link_codec.h"
#include "parallel/plan/record_report.h"
#include "parallel/plan/step_plan_codec.h"
#include "tests/support/hex.h"

namespace tandem::parallel {
namespace {

using testing::Hex;

// What is sent must stay as it was, byte by byte, as long as its version does.

kv_store::BlockHash Hash(uint8_t first) { return testing::Counted<kv_store::BlockHash>(first); }

core::SamplingParams Sampling() {
  return {.temperature = 0.5F,
          .top_k = 40,
          .top_p = 0.75F,
          .min_p = 0.125F,
          .repetition_penalty = 1.5F,
          .presence_penalty = 0.25F,
          .frequency_penalty = -0.5F,
          .seed = 0x0102030405060708,
          .sample_number = 3,
          .logit_bias = {{11, -1.0F}, {12, 2.0F}},
          .min_tokens = 4,
          .end_tokens = {13, 14}};
}

TEST(StepPlanCodec, TheBytesStayAsTheyWere) {
  const StepPlan plan{
      .epoch = 1,
      .step = 2,
      .stop = false,
      .closed = {3, 4},
      .opened = {{.slot = 5,
                  .sampling = Sampling(),
                  .candidates_per_rank = 6,
                  .first_token_index = 7,
                  .history = {8, 9}}},
      .saves = {{.hash = Hash(1), .before = Hash(2), .tenant = 3, .tokens = 4, .blocks = {5, -1}}},
      .flush = true,
      .moves = {BlockCopy{.group = 1, .from = 2, .to = 3},
                BlockLoad{.fetch = 4, .index = 5, .blocks = {6, 7}},
                PageSpill{.blocks = {{.group = 1, .block = 2, .host = 3}}},
                PageReturn{.id = 8, .blocks = {{.group = 4, .block = 5, .host = 6}}}},
      .ended_fetches = {8, 9},
      .fetches = {{.id = 10, .blocks = {{.hash = Hash(3), .tokens = 64, .groups = 3}}}},
      .sequences = {{.slot = 1,
                     .start_position = 2,
                     .tokens = {3, 4},
                     .drafts = {5},
                     .table_changes = {{{.index = 6, .block = 7}}, {}},
                     .sample = true,
                     .gather = true,
                     .score = ScoredTokens::kSampled,
                     .top = 10,
                     .next_token = 11},
                    {.slot = 8,
                     .start_position = 9,
                     .tokens = {},
                     .drafts = {},
                     .table_changes = {},
                     .sample = false,
                     .score = ScoredTokens::kAll,
                     .top = 12,
                     .next_token = 13}}};
  constexpr std::string_view kHex =
      "5454535007000201000000000000000200000000000000020000000300000004000000010000"
      "00050000000600000007000000000000000000003f280000000000403f0000003e0000c03f00"
      "00803e000000bf080706050403020103000000020000000b000000000080bf0c000000000000"
      "4004000000020000000d0000000e000000020000000800000009000000010000000102030405"
      "060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f2002030405060708090a0b0c"
      "0d0e0f101112131415161718191a1b1c1d1e1f20210300000000000000040000000200000005"
      "000000ffffffff04000000000100000002000000030000000104000000000000000500000002"
      "0000000600000007000000020100000001000000020000000300000003080000000000000001"
      "0000000400000005000000060000000200000008000000000000000900000000000000010000"
      "000a0000000000000001000000030405060708090a0b0c0d0e0f101112131415161718191a1b"
      "1c1d1e1f2021224000000003000000020000000100000002000000070a0000000b0000000200"
      "0000030000000400000001000000050000000200000001000000060000000700000000000000"
      "0800000009000000080c0000000d0000000000000000000000000000001d00cfd0680005dd6c"
      "5c39cdfbe5c408";
  const auto bytes = EncodeStepPlan(plan);
  EXPECT_EQ(Hex(bytes), kHex);
  EXPECT_EQ(*DecodeStepPlan(bytes), plan);
  StepPlan stop;
  stop.stop = true;
  EXPECT_EQ(Hex(EncodeStepPlan(stop)),
            "5454535007000100000000000000000000000000000000000000000000000000000000000000"
            "00000000000000000000000000277cee802268016df073d4e4f66c704d");
}

TEST(RecordReportCodec, TheBytesStayAsTheyWere) {
  using kv_store::TierKind;
  const RecordReport report{
      .kind = RecordReport::Kind::kFetched,
      .rank = 0,
      .id = 2,
      .safe = true,
      .from = {TierKind::kHost, TierKind::kRemote, TierKind::kDisk},
      .counts = {.put = 3, .dropped = 4, .refused = 5, .fetched = 6, .damaged = 7}};
  const auto bytes = EncodeRecordReport(report);
  EXPECT_EQ(Hex(bytes),
            "0102000000000000000103000000000201030000000000000004000000000000000500000000"
            "00000006000000000000000700000000000000");
  EXPECT_EQ(*DecodeRecordReport(bytes), report);
}

struct Golden {
  LinkMessage message;
  std::string_view hex;
};

std::vector<Golden> AllKinds() {
  return {
      {LinkHello{}, "0c00"},
      {LinkWelcome{.epoch = 14}, "0c010e00000000000000"},
      {LinkPing{}, "0c02"},
      {LinkStop{}, "0c03"},
      {LinkSubmit{.id = 1,
                  .request = {.prompt = {2, 3},
                              .answered = {15},
                              .max_tokens = 4,
                              .sampling = Sampling(),
                              .stop_tokens = {5},
                              .want_prompt_logits = true,
                              .logprobs = 6,
                              .prompt_logprobs = false,
                              .first_prompt_logprob = 8,
                              .tenant = 7,
                              .client = 8,
                              .priority = -9,
                              .reuse = false,
                              .speculate = true,
                              .durable = true}},
       "0c040100000000000000020000000200000003000000010000000f000000040000000000003f280000000000403"
       "f"
       "0000003e0000c03f0000803e000000bf080706050403020103000000020000000b0000000000"
       "80bf0c0000000000004004000000020000000d0000000e000000010000000500000001010600"
       "0000000800000007000000000000000800000000000000f7ffffff000101"},
      {LinkCancel{.id = 1}, "0c050100000000000000"},
      {LinkAccepted{.id = 2}, "0c060200000000000000"},
      {LinkRefused{.id = 3, .status = WithRetryAfter(ResourceExhausted("full"), 1.5)},
       "0c070300000000000000080000000400000066756c6c01000000000000f83f"},
      {LinkTokens{.id = 4, .tokens = {5, 6}}, "0c080400000000000000020000000500000006000000"},
      {LinkLogits{.id = 7, .position = 8, .logits = {1.5F, -2.0F}},
       "0c0907000000000000000800000000000000020000000000c03f000000c0"},
      {LinkLogprobs{.id = 9,
                    .position = 10,
                    .logprobs = {{.chosen = {.token = 1, .logprob = -0.5F},
                                  .top = {{.token = 2, .logprob = -0.25F}}}}},
       "0c0a09000000000000000a000000000000000100000001000000000000bf0100000002000000"
       "000080be"},
      {LinkFinish{
           .id = 11,
           .finish = {.reason = FinishReason::kCancelled,
                      .status = Unavailable("gone"),
                      .engine_died = true,
                      .usage = {.prompt_tokens = 1,
                                .completion_tokens = 2,
                                .reused_tokens = 3,
                                .reused_from = {.device = 4, .host = 5, .disk = 6, .remote = 7},
                                .computed_tokens = 8,
                                .reuse_limit = ReuseLimit::kEvicted,
                                .preemptions = 9,
                                .drafted_tokens = 10,
                                .accepted_tokens = 11,
                                .queue_seconds = 0.5,
                                .prefill_seconds = 1.5,
                                .decode_seconds = 2.5},
                      .saved = true}},
       "0c0b0b00000000000000020e00000004000000676f6e6500000000000000000001010000000200"
       "0000030000000400000000000000050000000000000006000000000000000700000000000000"
       "0800000004090000000a0000000b000000000000000000e03f000000000000f83f0000000000"
       "00044001"},
      {LinkStatusQuery{.query = 12}, "0c0c0c00000000000000"},
      {LinkStatus{
           .query = 13,
           .error = absl::OkStatus(),
           .status =
               {.ranks = {{.rank = 1,
                           .host = "a",
                           .weight_bytes = 2,
                           .weights_mapped = true,
                           .device = "cpu",
                           .reduce_nanoseconds = 37}},
                .running = 3,
                .waiting = 4,
                .context = 38,
                .blocks_total = 5,
                .blocks_used = 6,
                .blocks_cached = 7,
                .prompt_tokens = 8,
                .reused_tokens = 9,
                .reused_from = {.device = 10, .host = 11, .disk = 12, .remote = 13},
                .keeps_records = true,
                .records = {.put = 14, .dropped = 15, .refused = 16, .fetched = 17, .damaged = 18},
                .late_fetches = 19,
                .not_durable = 20,
                .preemptions = 21,
                .host_tier = {.bytes_limit = 31,
                              .bytes = 32,
                              .spilled = 33,
                              .spilled_bytes = 34,
                              .returned = 35,
                              .returned_bytes = 36},
                .drafted_tokens = 22,
                .accepted_tokens = 23,
                .steps = 24,
                .tokens_generated = 25,
                .tokens_prefilled = 26,
                .tokens_per_second = 27.5}},
       "0c0d0d0000000000000000000000000000000000000000000000000100000001000000010000"
       "006102000000000000000103000000637075250000000000000003000000040000002600000005"
       "000000000000000600000000"
       "0000000700000000000000080000000000000009000000000000000a000000000000000b0000"
       "00000000000c000000000000000d00000000000000010e000000000000000f00000000000000"
       "1000000000000000110000000000000012000000000000001300000000000000140000000000"
       "000015000000000000001f000000000000002000000000000000210000000000000022000000"
       "0000000023000000000000002400000000000000160000000000000017000000000000001800"
       "00000000000019000000000000001a000000000000000000000000803b40"},
      {LinkDead{.why = Internal("why")}, "0c0e0d00000003000000776879000000000000000000"},
      {LinkAdmitted{.id = 14}, "0c0f0e00000000000000"}};
}

TEST(EngineLinkCodec, TheBytesOfEveryMessageStayAsTheyWere) {
  const std::vector<Golden> all = AllKinds();
  ASSERT_EQ(all.size(), std::variant_size_v<LinkMessage>);
  for (size_t kind = 0; kind < all.size(); ++kind) {
    ASSERT_EQ(all[kind].message.index(), kind);
    const auto bytes = EncodeLinkMessage(all[kind].message);
    EXPECT_EQ(Hex(bytes), all[kind].hex) << "kind " << kind;
    const auto decoded = DecodeLinkMessage(bytes);
    ASSERT_TRUE(decoded.ok()) << decoded.status();
    EXPECT_EQ(EncodeLinkMessage(*decoded), bytes);
  }
}

}  // namespace
}  // namespace tandem::parallel
