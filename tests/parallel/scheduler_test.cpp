#include "parallel/scheduler.h"

#include <gtest/gtest.h>

#include <deque>
#include <map>
#include <set>

#include "kv_store/pool_size.h"
#include "parallel/slot_table.h"
#include "tests/support/random.h"

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

EngineRequest Request(size_t prompt, int32_t max_tokens) {
  EngineRequest request;
  for (size_t i = 0; i < prompt; ++i) request.prompt.push_back(static_cast<int32_t>(i % 50));
  request.max_tokens = max_tokens;
  return request;
}

/// Ranks without a model: keeps slots as plans say and samples made-up tokens.
class FakeRanks {
 public:
  explicit FakeRanks(const SchedulerOptions& options)
      : slots_(options.max_running, options.groups, options.blocks, options.vocab),
        options_(options) {}

  StepResult Execute(const StepPlan& plan) {
    const absl::Status applied = slots_.Apply(plan);
    EXPECT_TRUE(applied.ok()) << applied;
    StepResult result;
    int64_t logits = 0;
    for (const SequenceWork& work : plan.sequences) {
      SequenceResult sequence;
      if (work.sample) {
        sequence.tokens = {static_cast<int32_t>(slots_.slot(work.slot).history.size() % 50)};
        slots_.slot(work.slot).history.push_back(sequence.tokens.front());
      }
      if (work.gather != GatherLogits::kNone) logits += work.logit_rows() * options_.vocab;
      result.sequences.push_back(sequence);
    }
    EXPECT_LE(logits, options_.most_logits_a_step);
    result.logits.resize(static_cast<size_t>(logits));
    return result;
  }

  /// No two of the plan's sequences hold the same block.
  void CheckBlocksAreApart(const StepPlan& plan) {
    for (size_t group = 0; group < options_.groups.size(); ++group) {
      std::set<core::BlockId> seen;
      for (const SequenceWork& work : plan.sequences) {
        for (const core::BlockId block : slots_.slot(work.slot).tables[group]) {
          if (block != core::kNoBlock) {
            EXPECT_TRUE(seen.insert(block).second) << "block " << block << " twice";
          }
        }
      }
    }
  }

 private:
  SlotTable slots_;
  SchedulerOptions options_;
};

class SchedulerRandomTest : public ::testing::TestWithParam<bool> {};

TEST_P(SchedulerRandomTest, ServesEveryRequestInFull) {
  const bool ahead = GetParam();
  const SchedulerOptions options = SmallOptions();
  Scheduler scheduler(options);
  FakeRanks ranks(options);
  testing::SplitMix random(ahead ? 2 : 1);
  struct Expected {
    int32_t prompt = 0;
    int32_t tokens = 0;
    int32_t prefilled = 0;
    int32_t answered = 0;
    bool logits = false;
    int64_t next_logit = 0;
  };
  std::map<RequestId, Expected> open;
  RequestId next_id = 1;
  int finished = 0;
  std::deque<ScheduledStep> flight;
  const auto schedule = [&] {
    std::optional<ScheduledStep> step = scheduler.Schedule();
    if (!step) return;
    int32_t prompt_tokens = 0;
    for (const SequenceWork& work : step->plan.sequences) {
      prompt_tokens += static_cast<int32_t>(work.tokens.size());
    }
    EXPECT_LE(prompt_tokens, options.prefill_chunk);
    EXPECT_EQ(step->plan.epoch, 3U);
    flight.push_back(std::move(*step));
  };
  for (int i = 0; i < 30'000; ++i) {
    if (random.Below(10) == 0 && open.size() < 20) {
      const auto prompt = static_cast<int32_t>(1 + random.Below(300));
      const auto tokens = static_cast<int32_t>(random.Below(100));
      EngineRequest request = Request(static_cast<size_t>(prompt), tokens);
      request.want_prompt_logits = random.Below(5) == 0;
      ASSERT_TRUE(Scheduler::Check(options, request).ok());
      open[next_id] = {.prompt = prompt, .tokens = tokens, .logits = request.want_prompt_logits};
      scheduler.Add(next_id++, std::move(request));
    }
    if (random.Below(60) == 0 && !open.empty()) {
      auto victim = open.begin();
      std::advance(victim, static_cast<int64_t>(random.Below(open.size())));
      ASSERT_TRUE(scheduler.Cancel(victim->first));
      ASSERT_FALSE(scheduler.Cancel(victim->first));
      open.erase(victim);
    }
    if (flight.empty()) schedule();
    if (ahead && flight.size() == 1) schedule();
    if (flight.empty()) {
      ASSERT_TRUE(open.empty()) << "requests wait but nothing is scheduled";
      ASSERT_EQ(scheduler.blocks_used(), 0);
      continue;
    }
    const ScheduledStep step = std::move(flight.front());
    flight.pop_front();
    const StepResult result = ranks.Execute(step.plan);
    ranks.CheckBlocksAreApart(step.plan);
    for (const RequestEvent& event : scheduler.Commit(step, result)) {
      ASSERT_TRUE(open.contains(event.id));
      Expected& expected = open[event.id];
      if (expected.logits && event.prefilled > 0) {
        EXPECT_EQ(event.first_logit_position, expected.next_logit);
        EXPECT_EQ(event.logits.size(), static_cast<size_t>(event.prefilled) * 50);
        expected.next_logit += event.prefilled;
      }
      expected.prefilled += event.prefilled;
      if (event.token) ++expected.answered;
      if (!event.finish) continue;
      EXPECT_EQ(*event.finish, FinishReason::kLength);
      EXPECT_EQ(expected.prefilled, expected.prompt);
      EXPECT_EQ(expected.answered, expected.tokens);
      open.erase(event.id);
      ++finished;
    }
    ASSERT_LE(scheduler.running(), options.max_running);
    ASSERT_LE(scheduler.blocks_used(), scheduler.blocks_total());
  }
  EXPECT_GT(finished, 200);
}

INSTANTIATE_TEST_SUITE_P(PlanAhead, SchedulerRandomTest, ::testing::Bool());

TEST(Scheduler, ShortPromptDoesNotWaitForLongOnes) {
  SchedulerOptions options = SmallOptions();
  options.blocks = {100, 100};
  Scheduler scheduler(options);
  FakeRanks ranks(options);
  scheduler.Add(1, Request(500, 1));
  scheduler.Add(2, Request(500, 1));
  scheduler.Add(3, Request(5, 1));
  int steps = 0;
  for (bool done = false; !done; ++steps) {
    ASSERT_LT(steps, 4) << "the short prompt waits";
    const auto step = scheduler.Schedule();
    ASSERT_TRUE(step.has_value());
    for (const auto& event : scheduler.Commit(*step, ranks.Execute(step->plan))) {
      done |= event.id == 3 && event.finish.has_value();
    }
  }
}

TEST(Scheduler, DecodesGoOnBesideALongPrompt) {
  SchedulerOptions options = SmallOptions();
  options.blocks = {100, 100};
  Scheduler scheduler(options);
  FakeRanks ranks(options);
  scheduler.Add(1, Request(3, 50));
  for (int i = 0; i < 20; ++i) {
    if (i == 5) scheduler.Add(2, Request(500, 1));
    const auto step = scheduler.Schedule();
    ASSERT_TRUE(step.has_value());
    const auto result = ranks.Execute(step->plan);
    bool token = false;
    for (const auto& event : scheduler.Commit(*step, result)) token |= event.id == 1 && event.token;
    EXPECT_TRUE(token) << "step " << i;
  }
}

TEST(Scheduler, LogitsAreWantedForTheLastChunkOnly) {
  Scheduler scheduler(SmallOptions());
  FakeRanks ranks(SmallOptions());
  scheduler.Add(1, Request(100, 2));
  for (const bool sample : {false, false, true, true}) {
    const auto step = scheduler.Schedule();
    ASSERT_TRUE(step.has_value());
    EXPECT_EQ(step->plan.sequences[0].sample, sample);
    EXPECT_EQ(step->plan.sequences[0].gather, GatherLogits::kNone);
    scheduler.Commit(*step, ranks.Execute(step->plan));
  }
  EXPECT_EQ(scheduler.running(), 0);
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
                     .gather = GatherLogits::kNone}};
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
  EXPECT_TRUE(refused([](StepPlan& plan) { plan.copies = {{.group = 2, .from = 0, .to = 1}}; }));
  EXPECT_TRUE(refused([](StepPlan& plan) { plan.copies = {{.group = 1, .from = 12, .to = 1}}; }));
  EXPECT_TRUE(refused([](StepPlan& plan) { plan.copies = {{.group = 1, .from = 1, .to = 1}}; }));
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
