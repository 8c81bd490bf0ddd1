#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "parallel/engine/engine_link_codec.h"
#include "parallel/plan/record_report.h"
#include "parallel/plan/step_plan_codec.h"
#include "tests/support/random.h"

namespace tandem::parallel {
namespace {

using ::testing::HasSubstr;
using testing::SplitMix;

core::SamplingParams RandomSampling(SplitMix& random) {
  core::SamplingParams sampling;
  sampling.temperature = random.Unit();
  sampling.top_k = static_cast<int32_t>(random.Next());
  sampling.top_p = random.Unit();
  sampling.min_p = random.Unit();
  sampling.repetition_penalty =
      random.Below(3) == 0 ? std::numeric_limits<float>::quiet_NaN() : random.Unit();
  sampling.presence_penalty = 2 * random.Unit() - 1;
  sampling.frequency_penalty = 2 * random.Unit() - 1;
  sampling.seed = random.Next();
  sampling.sample_number = static_cast<uint32_t>(random.Next());
  for (uint64_t i = random.Below(4); i > 0; --i) {
    sampling.logit_bias.emplace_back(static_cast<int32_t>(random.Next()), -random.Unit());
  }
  sampling.min_tokens = static_cast<int32_t>(random.Next());
  for (uint64_t i = random.Below(4); i > 0; --i) {
    sampling.end_tokens.push_back(static_cast<int32_t>(random.Next()));
  }
  return sampling;
}

std::vector<int32_t> RandomTokens(SplitMix& random, uint64_t most) {
  std::vector<int32_t> tokens(random.Below(most));
  for (int32_t& token : tokens) token = static_cast<int32_t>(random.Next());
  return tokens;
}

kv_store::BlockHash RandomHash(SplitMix& random) {
  kv_store::BlockHash hash;
  for (uint8_t& byte : hash) byte = static_cast<uint8_t>(random.Next());
  return hash;
}

StepPlan RandomPlan(SplitMix& random) {
  StepPlan plan;
  plan.epoch = random.Next();
  plan.step = random.Next();
  plan.stop = random.Below(8) == 0;
  for (uint64_t i = random.Below(4); i > 0; --i) {
    plan.closed.push_back(static_cast<SlotId>(random.Next()));
  }
  for (uint64_t i = random.Below(4); i > 0; --i) {
    plan.opened.push_back({.slot = static_cast<SlotId>(random.Next()),
                           .sampling = RandomSampling(random),
                           .candidates_per_rank = static_cast<int32_t>(random.Next()),
                           .first_token_index = random.Next(),
                           .history = RandomTokens(random, 8)});
  }
  plan.flush = random.Below(2) == 0;
  for (uint64_t i = random.Below(3); i > 0; --i) {
    plan.saves.push_back({.hash = RandomHash(random),
                          .before = RandomHash(random),
                          .tenant = random.Next(),
                          .tokens = static_cast<int32_t>(random.Next()),
                          .blocks = RandomTokens(random, 3)});
  }
  for (uint64_t i = random.Below(4); i > 0; --i) {
    const auto spilled = [&random] {
      std::vector<SpilledBlock> blocks(random.Below(3));
      for (SpilledBlock& at : blocks) {
        at = {.group = static_cast<int32_t>(random.Next()),
              .block = static_cast<core::BlockId>(random.Next()),
              .host = static_cast<core::BlockId>(random.Next())};
      }
      return blocks;
    };
    const uint64_t kind = random.Below(4);
    if (kind == 0) {
      plan.moves.emplace_back(PageSpill{.blocks = spilled()});
    } else if (kind == 1) {
      plan.moves.emplace_back(PageReturn{.id = random.Next(), .blocks = spilled()});
    } else if (kind == 2) {
      plan.moves.emplace_back(BlockCopy{.group = static_cast<int32_t>(random.Next()),
                                        .from = static_cast<core::BlockId>(random.Next()),
                                        .to = static_cast<core::BlockId>(random.Next())});
    } else {
      plan.moves.emplace_back(BlockLoad{.fetch = random.Next(),
                                        .index = static_cast<int32_t>(random.Next()),
                                        .blocks = RandomTokens(random, 3)});
    }
  }
  for (uint64_t i = random.Below(3); i > 0; --i) plan.ended_fetches.push_back(random.Next());
  for (uint64_t i = random.Below(3); i > 0; --i) {
    BlockFetch& fetch = plan.fetches.emplace_back();
    fetch.id = random.Next();
    for (uint64_t b = random.Below(4); b > 0; --b) {
      fetch.blocks.push_back({.hash = RandomHash(random),
                              .tokens = static_cast<int32_t>(random.Next()),
                              .groups = static_cast<uint32_t>(random.Next())});
    }
  }
  for (uint64_t i = random.Below(6); i > 0; --i) {
    SequenceWork work;
    work.slot = static_cast<SlotId>(random.Next());
    work.start_position = static_cast<int32_t>(random.Next());
    work.tokens = RandomTokens(random, 20);
    work.drafts = RandomTokens(random, 5);
    work.table_changes.resize(random.Below(4));
    for (auto& changes : work.table_changes) {
      for (uint64_t c = random.Below(5); c > 0; --c) {
        changes.push_back({.index = static_cast<int32_t>(random.Next()),
                           .block = static_cast<core::BlockId>(random.Next())});
      }
    }
    work.sample = random.Below(2) == 0;
    work.gather = random.Below(2) == 0;
    work.score = static_cast<ScoredTokens>(random.Below(3));
    work.top = static_cast<int32_t>(random.Next());
    work.next_token = static_cast<int32_t>(random.Next());
    plan.sequences.push_back(std::move(work));
  }
  return plan;
}

TEST(StepPlanCodec, RoundTripsRandomPlans) {
  SplitMix random(1);
  for (int i = 0; i < 2000; ++i) {
    const StepPlan plan = RandomPlan(random);
    const auto bytes = EncodeStepPlan(plan);
    const auto decoded = DecodeStepPlan(bytes);
    ASSERT_TRUE(decoded.ok()) << decoded.status();
    EXPECT_EQ(*decoded, plan);
    EXPECT_EQ(EncodeStepPlan(*decoded), bytes);
  }
}

TEST(StepPlanCodec, RefusesEveryCutAndEveryFlippedBit) {
  SplitMix random(2);
  StepPlan plan = RandomPlan(random);
  while (plan.opened.empty() || plan.sequences.empty() || plan.saves.empty() ||
         plan.moves.empty() || plan.fetches.empty())
    plan = RandomPlan(random);
  const auto bytes = EncodeStepPlan(plan);
  for (size_t size = 0; size < bytes.size(); ++size) {
    EXPECT_FALSE(DecodeStepPlan(std::span(bytes).first(size)).ok()) << size << " bytes";
  }
  for (size_t bit = 0; bit < bytes.size() * 8; ++bit) {
    auto damaged = bytes;
    damaged[bit / 8] ^= static_cast<std::byte>(1U << (bit % 8));
    EXPECT_FALSE(DecodeStepPlan(damaged).ok()) << "bit " << bit;
  }
  auto longer = bytes;
  longer.push_back(std::byte{0});
  EXPECT_FALSE(DecodeStepPlan(longer).ok());
}

/// With the right hash, so that only the parser stands in the way.
std::vector<std::byte> Sealed(std::vector<std::byte> body) {
  const Digest hash = DigestOf(body);
  const auto raw = std::as_bytes(std::span(hash));
  body.insert(body.end(), raw.begin(), raw.end());
  return body;
}

TEST(StepPlanCodec, RefusesDamageUnderARightHash) {
  SplitMix random(3);
  int accepted = 0;
  for (int i = 0; i < 5000; ++i) {
    auto body = EncodeStepPlan(RandomPlan(random));
    body.erase(body.end() - sizeof(Digest), body.end());
    body[random.Below(body.size())] = static_cast<std::byte>(random.Next());
    const auto encrypted = Sealed(body);
    const auto decoded = DecodeStepPlan(encrypted);
    // Numbers may take any value; what is accepted must mean exactly what was read.
    if (decoded.ok()) {
      ++accepted;
      EXPECT_EQ(EncodeStepPlan(*decoded), encrypted);
    }
  }
  EXPECT_GT(accepted, 0);
}

TEST(StepPlanCodec, SaysWhatIsWrong) {
  auto body = EncodeStepPlan(StepPlan());
  body.erase(body.end() - sizeof(Digest), body.end());
  auto version = body;
  version[4] = std::byte{9};
  EXPECT_THAT(Message(DecodeStepPlan(Sealed(version)).status()), HasSubstr("version 9"));
  auto flags = body;
  flags[6] = std::byte{0x84};
  EXPECT_THAT(Message(DecodeStepPlan(Sealed(flags)).status()), HasSubstr("unknown flags 0x84"));
  auto count = body;
  count[23] = std::byte{0xff};  // closed slots
  EXPECT_THAT(Message(DecodeStepPlan(Sealed(count)).status()), HasSubstr("255 closed slots"));
}

TEST(RecordReportCodec, RoundTripsAndRefusesWhatItDidNotWrite) {
  SplitMix random(6);
  for (int i = 0; i < 500; ++i) {
    RecordReport report;
    report.kind = static_cast<RecordReport::Kind>(random.Below(4));
    report.id = random.Next();
    report.safe = random.Below(2) == 0;
    for (uint64_t b = random.Below(9); b > 0; --b) {
      report.from.push_back(static_cast<kv_store::TierKind>(random.Below(3)));
    }
    report.counts = {.put = random.Next(),
                     .dropped = random.Next(),
                     .refused = random.Next(),
                     .fetched = random.Next(),
                     .damaged = random.Next()};
    const auto bytes = EncodeRecordReport(report);
    const auto decoded = DecodeRecordReport(bytes);
    ASSERT_TRUE(decoded.ok()) << decoded.status();
    EXPECT_EQ(*decoded, report);
    for (size_t size = 0; size < bytes.size(); ++size) {
      EXPECT_FALSE(DecodeRecordReport(std::span(bytes).first(size)).ok());
    }
    auto kind = bytes;
    kind[0] = std::byte{4};
    EXPECT_THAT(Message(DecodeRecordReport(kind).status()), HasSubstr("4 is no kind of report"));
    auto count = bytes;
    count[13] = std::byte{0xff};
    EXPECT_FALSE(DecodeRecordReport(count).ok());
  }
}

TEST(EngineLinkCodec, RoundTripsEveryKind) {
  SplitMix random(4);
  LinkSubmit submit{.id = 7, .request = {}};
  submit.request.prompt = {1, 2, 3};
  submit.request.max_tokens = 9;
  submit.request.sampling = RandomSampling(random);
  submit.request.stop_tokens = {5};
  submit.request.want_prompt_logits = true;
  submit.request.logprobs = 3;
  submit.request.tenant = 1;
  submit.request.client = 2;
  submit.request.priority = -3;
  submit.request.speculate = false;
  submit.request.durable = true;
  submit.request.first_prompt_logprob = 17;
  LinkFinish finish{.id = 3, .finish = {}};
  finish.finish.reason = FinishReason::kFailed;
  finish.finish.status = Unavailable("rank 1 on host n1 died");
  finish.finish.usage = {.prompt_tokens = 1,
                         .completion_tokens = 2,
                         .reused_tokens = 3,
                         .reused_from = {.device = 1, .host = 0, .disk = 2, .remote = 0},
                         .computed_tokens = 4,
                         .reuse_limit = ReuseLimit::kEvicted,
                         .preemptions = 5,
                         .drafted_tokens = 6,
                         .accepted_tokens = 7,
                         .queue_seconds = 0.5,
                         .prefill_seconds = 1.5,
                         .decode_seconds = 2.5};
  LinkStatus status{.query = 4, .error = absl::OkStatus(), .status = {}};
  status.status.ranks = {
      {.rank = 0, .host = "a", .weight_bytes = 5, .weights_mapped = true, .device = "cpu"},
      {.rank = 1, .host = "b", .weight_bytes = 6, .device = "cuda", .reduce_nanoseconds = 7}};
  status.status.tokens_per_second = 12.5;
  const std::vector<LinkMessage> messages = {
      LinkHello{},
      LinkWelcome{},
      LinkPing{},
      LinkStop{},
      submit,
      LinkCancel{.id = 8},
      LinkAccepted{.id = 9},
      LinkRefused{.id = 10, .status = OutOfRange("too long")},
      LinkTokens{.id = 11, .tokens = {4, 5}},
      LinkLogits{.id = 12, .position = 3, .logits = {1.5F, -2.0F}},
      LinkLogprobs{
          .id = 14,
          .position = 4,
          .logprobs = {{.chosen = {.token = 1, .logprob = -0.5F},
                        .top = {{.token = 1, .logprob = -0.5F}, {.token = 2, .logprob = -1}}},
                       {.chosen = {.token = 3, .logprob = -1.5F}, .top = {}}}},
      finish,
      LinkStatusQuery{.query = 13},
      status,
      LinkDead{.why = Unavailable("gone")},
      LinkAdmitted{.id = 15}};
  ASSERT_EQ(messages.size(), std::variant_size_v<LinkMessage>);
  for (size_t kind = 0; kind < messages.size(); ++kind) {
    const auto bytes = EncodeLinkMessage(messages[kind]);
    const auto decoded = DecodeLinkMessage(bytes);
    ASSERT_TRUE(decoded.ok()) << decoded.status();
    EXPECT_EQ(decoded->index(), kind);
    EXPECT_EQ(EncodeLinkMessage(*decoded), bytes);
    for (size_t size = 0; size < bytes.size(); ++size) {
      EXPECT_FALSE(DecodeLinkMessage(std::span(bytes).first(size)).ok()) << kind << ": " << size;
    }
  }
  const auto decoded = DecodeLinkMessage(EncodeLinkMessage(finish));
  EXPECT_EQ(std::get<LinkFinish>(*decoded).finish.status, finish.finish.status);
  EXPECT_EQ(std::get<LinkFinish>(*decoded).finish.usage.decode_seconds, 2.5);
}

TEST(EngineLinkCodec, RefusesUnknownKindsAndVersions) {
  const std::byte kind[] = {std::byte{kLinkVersion}, std::byte{99}};
  EXPECT_THAT(Message(DecodeLinkMessage(kind).status()), HasSubstr("99 is no kind"));
  const std::byte version[] = {std::byte{kLinkVersion + 1}, std::byte{0}};
  EXPECT_THAT(Message(DecodeLinkMessage(version).status()),
              HasSubstr(fmt::format("version {}", kLinkVersion + 1)));
}

}  // namespace
}  // namespace tandem::parallel
