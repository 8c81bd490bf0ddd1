#include "parallel/schedule/scheduler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <map>

#include "parallel/rank/slot_table.h"
#include "tests/parallel/schedule/fake_ranks.h"

namespace tandem::parallel {
namespace {

SchedulerOptions SmallOptions() {
  return {.vocab = 50,
          .largest_vocab_shard = 50,
          .context = 600,
          .groups = {{.window = 0, .layers = {0}}, {.window = 70, .layers = {1}}},
          .blocks = {30, 12},
          .max_running = 6,
          .prefill_chunk = 48,
          .most_logits_a_step = 50 * 20,
          .epoch = 3};
}

std::vector<int32_t> Tokens(int32_t first, int32_t count) {
  std::vector<int32_t> tokens;
  for (int32_t i = 0; i < count; ++i) tokens.push_back((first + i * 7) % 50);
  return tokens;
}

EngineRequest Request(std::vector<int32_t> prompt, int32_t max_tokens) {
  EngineRequest request;
  request.prompt = std::move(prompt);
  request.max_tokens = max_tokens;
  return request;
}

/// A scheduler with ranks behind it, step by step.
class Bench {
 public:
  explicit Bench(const SchedulerOptions& options = SmallOptions())
      : scheduler(options), ranks_(options) {}

  ScheduledStep Step() {
    auto step = scheduler.Schedule();
    EXPECT_TRUE(step.has_value()) << "nothing to do";
    if (!step) return {};
    for (const auto& event : scheduler.Commit(*step, ranks_.Execute(*step))) {
      auto& tokens = answers[event.id];
      tokens.insert(tokens.end(), event.tokens.begin(), event.tokens.end());
      computed[event.id] += event.computed;
      if (event.finish) finished.push_back(event.id);
    }
    for (const Admission& admission : step->admitted) admitted.push_back(admission);
    for (const RequestId id : step->preempted) preempted.push_back(id);
    return *std::move(step);
  }
  bool Ended(RequestId id) const {
    return std::find(finished.begin(), finished.end(), id) != finished.end();
  }
  int StepsUntilEnd(RequestId id) {
    int steps = 0;
    for (; !Ended(id) && steps < 2000; ++steps) Step();
    return steps;
  }
  std::vector<RequestId> AdmittedIds() const {
    std::vector<RequestId> ids;
    for (const Admission& admission : admitted) ids.push_back(admission.id);
    return ids;
  }

  Scheduler scheduler;
  std::map<RequestId, std::vector<int32_t>> answers;
  std::map<RequestId, int32_t> computed;
  std::vector<RequestId> finished;
  std::vector<Admission> admitted;
  std::vector<RequestId> preempted;

 private:
  testing::FakeRanks ranks_;
};

TEST(Scheduler, TheNextTurnComputesWhatIsNewOnly) {
  Bench bench;
  const auto prompt = Tokens(0, 150);
  bench.scheduler.Add(1, Request(prompt, 20));
  bench.StepsUntilEnd(1);
  EXPECT_EQ(bench.admitted[0].reuse_limit, ReuseLimit::kNothing);
  EXPECT_EQ(bench.scheduler.blocks_used(), 0);
  EXPECT_EQ(bench.scheduler.blocks_cached(), 3 + 3);
  std::vector<int32_t> turn = prompt;
  turn.insert(turn.end(), bench.answers[1].begin(), bench.answers[1].end());
  const auto known = static_cast<int32_t>(turn.size());
  turn.insert(turn.end(), {1, 2, 3});
  bench.scheduler.Add(2, Request(turn, 5));
  bench.StepsUntilEnd(2);
  // The last answer token was given out, but never computed with.
  EXPECT_EQ(bench.admitted[1].reused_tokens, known - 1);
  EXPECT_EQ(bench.admitted[1].reuse_limit, ReuseLimit::kDiffers);
  EXPECT_EQ(bench.computed[2], 4 + 4);
  EXPECT_EQ(bench.answers[2], testing::FakeRanks::Answer(turn, 5, 50));
}

TEST(Scheduler, SamplesOfOnePromptShareItsPages) {
  Bench bench;
  const auto prompt = Tokens(0, 100);
  for (RequestId id = 1; id <= 4; ++id) bench.scheduler.Add(id, Request(prompt, 10));
  for (RequestId id = 1; id <= 4; ++id) bench.StepsUntilEnd(id);
  EXPECT_EQ(bench.computed[1], 100 + 9);
  for (RequestId id = 2; id <= 4; ++id) {
    EXPECT_EQ(bench.computed[id], 1 + 9) << "sample " << id;
    EXPECT_EQ(bench.admitted[id - 1].reuse_limit, ReuseLimit::kNone);
    EXPECT_EQ(bench.answers[id], bench.answers[1]);
  }
}

TEST(Scheduler, ACommonBeginningIsComputedOnce) {
  SchedulerOptions options = SmallOptions();
  options.prefill_chunk = 200;
  Bench bench(options);
  const auto prompt = Tokens(0, 130);
  for (RequestId id = 1; id <= 4; ++id) {
    auto own = prompt;
    for (int i = 0; i < 20; ++i) own.push_back(static_cast<int32_t>(id));
    bench.scheduler.Add(id, Request(own, 5));
  }
  for (RequestId id = 1; id <= 4; ++id) bench.StepsUntilEnd(id);
  for (RequestId id = 2; id <= 4; ++id) EXPECT_EQ(bench.admitted[id - 1].reused_tokens, 130);
}

TEST(Scheduler, NobodyWaitsForALeaderThatIsGone) {
  Bench bench;
  bench.scheduler.Add(1, Request(Tokens(0, 300), 5));
  bench.scheduler.Add(2, Request(Tokens(0, 300), 5));
  bench.Step();
  EXPECT_EQ(bench.scheduler.waiting(), 1);
  ASSERT_TRUE(bench.scheduler.Cancel(1));
  bench.StepsUntilEnd(2);
  EXPECT_EQ(bench.admitted[1].reused_tokens, 48) << "what the first one computed";
}

TEST(Scheduler, TenantsAndThoseWhoDoNotAskShareNothing) {
  Bench bench;
  const auto prompt = Tokens(0, 128);
  bench.scheduler.Add(1, Request(prompt, 2));
  bench.StepsUntilEnd(1);
  EngineRequest apart = Request(prompt, 2);
  apart.reuse = false;
  bench.scheduler.Add(2, apart);
  bench.StepsUntilEnd(2);
  EXPECT_EQ(bench.admitted[1].reused_tokens, 0);
  EXPECT_EQ(bench.admitted[1].reuse_limit, ReuseLimit::kNotAsked);
  bench.scheduler.Add(3, Request(prompt, 2));
  bench.StepsUntilEnd(3);
  EXPECT_EQ(bench.admitted[2].reused_tokens, 127);
}

TEST(Scheduler, HigherPriorityGoesFirstAndTakesSlots) {
  SchedulerOptions options = SmallOptions();
  options.max_running = 1;
  Bench bench(options);
  for (RequestId id = 1; id <= 3; ++id) {
    EngineRequest request = Request(Tokens(static_cast<int32_t>(id), 20), 30);
    request.priority = id == 3 ? 1 : 0;
    if (id == 3) {
      bench.Step();
      bench.Step();
    }
    bench.scheduler.Add(id, request);
  }
  bench.Step();
  EXPECT_EQ(bench.preempted, std::vector<RequestId>{1});
  EXPECT_EQ(bench.AdmittedIds(), (std::vector<RequestId>{1, 3}));
  for (RequestId id = 1; id <= 3; ++id) bench.StepsUntilEnd(id);
  // The preempted one comes before the one that never ran, and computes nothing twice.
  EXPECT_EQ(bench.finished, (std::vector<RequestId>{3, 1, 2}));
  EXPECT_EQ(bench.computed[1], 20 + 29);
  EXPECT_EQ(bench.answers[1], testing::FakeRanks::Answer(Tokens(1, 20), 30, 50));
}

TEST(Scheduler, ClientsTakeTurns) {
  SchedulerOptions options = SmallOptions();
  options.max_running = 1;
  Bench bench(options);
  for (RequestId id = 1; id <= 6; ++id) {
    EngineRequest request = Request(Tokens(static_cast<int32_t>(id), 20), 10);
    request.client = id <= 4 ? 1 : 2;  // one sends many before the other comes
    bench.scheduler.Add(id, request);
  }
  while (bench.finished.size() < 6) bench.Step();
  EXPECT_EQ(bench.finished, (std::vector<RequestId>{1, 5, 2, 6, 3, 4}));
}

TEST(Scheduler, TheShortPromptOfANewcomerPassesLongOnes) {
  for (const int32_t slots : {2, 6}) {  // most wait, or all run
    SchedulerOptions options = SmallOptions();
    options.blocks = {100, 100};
    options.max_running = slots;
    Bench bench(options);
    for (RequestId id = 1; id <= 5; ++id) {
      EngineRequest request = Request(Tokens(static_cast<int32_t>(id), 300), 1);
      request.client = id;
      bench.scheduler.Add(id, request);
    }
    for (int i = 0; i < 3; ++i) bench.Step();
    EngineRequest request = Request(Tokens(9, 5), 1);
    request.client = 9;
    bench.scheduler.Add(9, request);
    bench.StepsUntilEnd(9);
    EXPECT_LE(bench.finished.size(), slots == 2 ? 3U : 1U) << "before those that waited";
  }
}

TEST(Scheduler, NewcomersWithoutEndDoNotKeepALongPromptWaiting) {
  for (const bool same_client : {true, false}) {
    SchedulerOptions options = SmallOptions();
    options.blocks = {100, 100};
    options.max_running = 4;
    Bench bench(options);
    bench.scheduler.Add(1, Request(Tokens(1, 400), 1));
    // Each step takes a chunk of 48, and 60 tokens come: the short ones alone are too many.
    for (RequestId id = 2; id < 400 && !bench.Ended(1); id += 3) {
      for (RequestId more = 0; more < 3; ++more) {
        EngineRequest request = Request(Tokens(static_cast<int32_t>(id + more), 20), 1);
        if (!same_client) request.client = id + more;
        bench.scheduler.Add(id + more, request);
      }
      bench.Step();
    }
    EXPECT_TRUE(bench.Ended(1)) << same_client;
  }
}

TEST(Scheduler, WithoutPagesTheNewestMakesRoom) {
  SchedulerOptions options = SmallOptions();
  options.groups = {{.window = 0, .layers = {0}}};
  options.blocks = {8};
  options.context = 512;
  Bench bench(options);
  for (RequestId id = 1; id <= 3; ++id) {
    bench.scheduler.Add(id, Request(Tokens(static_cast<int32_t>(id), 60), 300));
  }
  for (RequestId id = 1; id <= 3; ++id) bench.StepsUntilEnd(id);
  EXPECT_EQ(bench.finished.front(), 1U);
  EXPECT_EQ(bench.preempted.front(), 3U);
  EXPECT_EQ(std::count(bench.preempted.begin(), bench.preempted.end(), 1U), 0);
  for (RequestId id = 1; id <= 3; ++id) {
    EXPECT_EQ(bench.answers[id],
              testing::FakeRanks::Answer(Tokens(static_cast<int32_t>(id), 60), 300, 50));
  }
}

TEST(Scheduler, PromptsBesideStreamsAreCutAsAsked) {
  Bench bench;
  bench.scheduler.SetPromptTokens([](int32_t decoding, int32_t) { return 10 * decoding; });
  bench.scheduler.Add(1, Request(Tokens(0, 10), 200));
  bench.Step();
  bench.scheduler.Add(2, Request(Tokens(3, 100), 5));
  const ScheduledStep step = bench.Step();
  EXPECT_EQ(step.decoding, 1);
  EXPECT_EQ(step.prompt_tokens, 10);
}

TEST(Scheduler, ShortPromptDoesNotWaitForLongOnes) {
  SchedulerOptions options = SmallOptions();
  options.blocks = {100, 100};
  Bench bench(options);
  bench.scheduler.Add(1, Request(Tokens(1, 500), 1));
  bench.scheduler.Add(2, Request(Tokens(2, 500), 1));
  bench.scheduler.Add(3, Request(Tokens(3, 5), 1));
  EXPECT_LE(bench.StepsUntilEnd(3), 4);
}

TEST(Scheduler, DecodesGoOnBesideALongPrompt) {
  SchedulerOptions options = SmallOptions();
  options.blocks = {100, 100};
  Bench bench(options);
  bench.scheduler.Add(1, Request(Tokens(1, 3), 50));
  for (size_t i = 0; i < 20; ++i) {
    if (i == 5) bench.scheduler.Add(2, Request(Tokens(2, 500), 1));
    bench.Step();
    EXPECT_EQ(bench.answers[1].size(), i + 1);
  }
}

TEST(Scheduler, LogitsAreWantedForTheLastChunkOnly) {
  Bench bench;
  bench.scheduler.Add(1, Request(Tokens(0, 100), 2));
  for (const bool sample : {false, false, true, true}) {
    const ScheduledStep step = bench.Step();
    EXPECT_EQ(step.plan.sequences[0].sample, sample);
    EXPECT_FALSE(step.plan.sequences[0].gather);
    EXPECT_EQ(step.plan.sequences[0].score, ScoredTokens::kNone);
  }
  EXPECT_EQ(bench.scheduler.running(), 0);
}

TEST(Scheduler, AsksForScoresOfAnswersAndPrompts) {
  for (const bool of_prompt : {false, true}) {
    const SchedulerOptions options = SmallOptions();
    Scheduler scheduler(options);
    testing::FakeRanks ranks(options);
    EngineRequest request = Request(Tokens(3, 95), 3);  // three chunks
    request.prompt_logprobs = of_prompt;
    if (!of_prompt) request.logprobs = 2;
    scheduler.Add(1, request);
    std::vector<int64_t> positions, expected;
    for (int64_t p = of_prompt ? 1 : 95; p < (of_prompt ? 95 : 98); ++p) expected.push_back(p);
    std::vector<int32_t> scored_tokens;  // of the prompt
    while (scheduler.running() + scheduler.waiting() > 0) {
      const auto step = scheduler.Schedule();
      ASSERT_TRUE(step.has_value());
      const StepResult result = ranks.Execute(*step);
      for (const SequenceWork& work : step->plan.sequences) {
        EXPECT_FALSE(work.gather);
        EXPECT_EQ(work.top, of_prompt || work.score_rows() == 0 ? 0 : 2);
        if (work.score != ScoredTokens::kAll) continue;
        scored_tokens.insert(scored_tokens.end(), work.tokens.begin() + 1, work.tokens.end());
        if (!work.sample) scored_tokens.push_back(work.next_token);
      }
      for (const RequestEvent& event : scheduler.Commit(*step, result)) {
        EXPECT_TRUE(event.logits.empty());
        for (const ScoredToken& scored : event.scored) positions.push_back(scored.position);
      }
    }
    EXPECT_EQ(positions, expected);
    EXPECT_EQ(scored_tokens, of_prompt
                                 ? std::vector(request.prompt.begin() + 1, request.prompt.end())
                                 : std::vector<int32_t>());
  }
}

TEST(Scheduler, PromptsAreScoredFromWhereTheyAreWanted) {
  const SchedulerOptions options = SmallOptions();
  for (const int32_t first : {1, 2, 33, 50, 94, 95, 200}) {
    for (const bool logits : {false, true}) {
      Scheduler scheduler(options);
      testing::FakeRanks ranks(options);
      EngineRequest request = Request(Tokens(3, 95), 0);
      request.prompt_logprobs = true;
      request.first_prompt_logprob = first;
      request.want_prompt_logits = logits;
      scheduler.Add(1, request);
      std::vector<int64_t> positions, expected;
      for (int64_t p = first; p < 95; ++p) expected.push_back(p);
      int32_t rows = 0;
      bool ended = false;
      while (scheduler.running() + scheduler.waiting() > 0) {
        const auto step = scheduler.Schedule();
        ASSERT_TRUE(step.has_value());
        const StepResult result = ranks.Execute(*step);
        for (const SequenceWork& work : step->plan.sequences) rows += work.logit_rows();
        for (const RequestEvent& event : scheduler.Commit(*step, result)) {
          for (const ScoredToken& scored : event.scored) positions.push_back(scored.position);
          ended = event.finish == FinishReason::kLength;
        }
      }
      EXPECT_EQ(positions, expected) << first;
      // Those of the positions before are not computed.
      EXPECT_EQ(rows, logits ? 95 : std::max(0, 96 - first)) << first;
      EXPECT_TRUE(ended);
    }
  }
}

TEST(Scheduler, RefusesLogprobsOutsideTheirRange) {
  EngineRequest request = Request(Tokens(0, 5), 5);
  request.first_prompt_logprob = 0;
  EXPECT_EQ(Scheduler::Check(SmallOptions(), request).code(), absl::StatusCode::kInvalidArgument);
  request.first_prompt_logprob = 1;
  for (const int32_t logprobs : {-1, kMostLogprobs + 1}) {
    request.logprobs = logprobs;
    EXPECT_EQ(Scheduler::Check(SmallOptions(), request).code(), absl::StatusCode::kInvalidArgument);
  }
  request.logprobs = kMostLogprobs;
  EXPECT_TRUE(Scheduler::Check(SmallOptions(), request).ok());
}

TEST(Scheduler, DraftsKnowWhatTheStepCarries) {
  SchedulerOptions options = SmallOptions();
  options.blocks = {100, 100};
  Bench bench(options);
  std::vector<int32_t> carried;
  bench.scheduler.SetDraftSource([&](const RequestState&, int32_t most, int32_t step_tokens) {
    carried.push_back(step_tokens);
    EXPECT_LT(most, 10);
    return std::vector<int32_t>(2, 1);
  });
  bench.scheduler.Add(1, Request(Tokens(0, 5), 10));
  bench.Step();
  bench.scheduler.Add(2, Request(Tokens(1, 5), 10));
  bench.Step();
  // The first one's token beside the second one's prompt, which does not draft yet.
  EXPECT_EQ(carried, (std::vector<int32_t>{6}));
  carried.clear();
  bench.Step();
  EXPECT_EQ(carried, (std::vector<int32_t>{2, 4}));
}

TEST(SlotTable, RefusesPlansThatDoNotFitAndKeepsItsState) {
  const SchedulerOptions options = SmallOptions();
  const auto table = [&] {
    return SlotTable(options.max_running, options.groups, options.blocks, options.vocab);
  };
  StepPlan good;
  good.opened = {
      {.slot = 2, .sampling = {}, .candidates_per_rank = 1, .first_token_index = 0, .history = {}}};
  good.sequences = {{.slot = 2,
                     .start_position = 0,
                     .tokens = {1, 2, 3},
                     .drafts = {},
                     .table_changes = {{{.index = 0, .block = 4}}, {{.index = 0, .block = 0}}},
                     .sample = true,
                     .score = ScoredTokens::kNone}};
  {
    SlotTable slots = table();
    EXPECT_TRUE(slots.Apply(good).ok());
    EXPECT_EQ(slots.slot(2).history, (std::vector<int32_t>{1, 2, 3}));
    EXPECT_FALSE(slots.Apply(good).ok()) << "the slot is open already";
  }
  const auto refused = [&](const std::function<void(StepPlan&)>& change) {
    SlotTable slots = table();
    StepPlan plan = good;
    change(plan);
    const absl::Status status = slots.Apply(plan);
    EXPECT_EQ(status.code(), absl::StatusCode::kInternal) << status;
    return slots.Apply(good).ok();  // nothing was changed
  };
  EXPECT_TRUE(refused([](StepPlan& plan) { plan.opened[0].slot = 6; }));
  EXPECT_TRUE(refused([](StepPlan& plan) { plan.opened[0].slot = -1; }));
  EXPECT_TRUE(refused([](StepPlan& plan) { plan.opened.clear(); }));
  EXPECT_TRUE(refused([](StepPlan& plan) { plan.opened.push_back(plan.opened[0]); }));
  EXPECT_TRUE(refused([](StepPlan& plan) { plan.opened[0].candidates_per_rank = 0; }));
  EXPECT_TRUE(refused([](StepPlan& plan) { plan.opened[0].candidates_per_rank = 51; }));
  EXPECT_TRUE(refused([](StepPlan& plan) { plan.closed = {2}; }));
  EXPECT_TRUE(refused([](StepPlan& plan) { plan.opened[0].history = {1}; }));
  EXPECT_TRUE(refused([](StepPlan& plan) { plan.opened[0].history = {50}; }));
  EXPECT_TRUE(
      refused([](StepPlan& plan) { plan.moves = {BlockCopy{.group = 2, .from = 0, .to = 1}}; }));
  EXPECT_TRUE(
      refused([](StepPlan& plan) { plan.moves = {BlockCopy{.group = 1, .from = 12, .to = 1}}; }));
  EXPECT_TRUE(
      refused([](StepPlan& plan) { plan.moves = {BlockCopy{.group = 1, .from = 1, .to = 1}}; }));
  EXPECT_TRUE(refused(
      [](StepPlan& plan) { plan.moves = {BlockLoad{.fetch = 1, .index = 0, .blocks = {0}}}; }));
  EXPECT_TRUE(refused([](StepPlan& plan) {
    plan.moves = {BlockLoad{.fetch = 1, .index = 0, .blocks = {0, 12}}};
  }));
  const auto save = [](int32_t tokens, std::vector<core::BlockId> blocks) {
    return BlockSave{
        .hash = {}, .before = {}, .tenant = 0, .tokens = tokens, .blocks = std::move(blocks)};
  };
  EXPECT_TRUE(refused([&](StepPlan& plan) { plan.saves = {save(0, {0, 0})}; }));
  EXPECT_TRUE(refused([&](StepPlan& plan) { plan.saves = {save(65, {0, 0})}; }));
  EXPECT_TRUE(refused([&](StepPlan& plan) { plan.saves = {save(64, {0, 0, 0})}; }));
  EXPECT_TRUE(refused([&](StepPlan& plan) { plan.saves = {save(64, {-2, 0})}; }));
  const auto fetch = [](int32_t tokens, uint32_t groups) {
    return BlockFetch{.id = 1, .blocks = {{.hash = {}, .tokens = tokens, .groups = groups}}};
  };
  EXPECT_TRUE(refused([&](StepPlan& plan) { plan.fetches = {fetch(0, 1)}; }));
  EXPECT_TRUE(refused([&](StepPlan& plan) { plan.fetches = {fetch(3, 4)}; }));
  EXPECT_TRUE(refused([](StepPlan& plan) { plan.sequences[0].drafts = {50}; }));
  EXPECT_TRUE(refused([](StepPlan& plan) {
    plan.sequences[0].drafts = {1};
    plan.sequences[0].sample = false;
  }));
  EXPECT_TRUE(refused([](StepPlan& plan) { plan.sequences.push_back(plan.sequences[0]); }));
  EXPECT_TRUE(refused([](StepPlan& plan) { plan.sequences[0].start_position = 1; }));
  EXPECT_TRUE(refused([](StepPlan& plan) { plan.sequences[0].tokens.clear(); }));
  EXPECT_TRUE(refused([](StepPlan& plan) { plan.sequences[0].tokens[1] = 50; }));
  EXPECT_TRUE(refused([](StepPlan& plan) { plan.sequences[0].table_changes.pop_back(); }));
  EXPECT_TRUE(refused([](StepPlan& plan) { plan.sequences[0].table_changes[0].clear(); }));
  EXPECT_TRUE(refused([](StepPlan& plan) { plan.sequences[0].table_changes[0][0].index = 1; }));
  EXPECT_TRUE(refused([](StepPlan& plan) { plan.sequences[0].table_changes[0][0].block = 30; }));
  EXPECT_TRUE(refused(
      [](StepPlan& plan) { plan.sequences[0].table_changes[1][0].block = core::kNoBlock; }));
}

}  // namespace
}  // namespace tandem::parallel
