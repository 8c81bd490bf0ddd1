#include <gtest/gtest.h>

#include <deque>
#include <map>
#include <optional>

#include "parallel/schedule/scheduler.h"
#include "tests/parallel/schedule/fake_ranks.h"
#include "tests/support/random.h"

namespace tandem::testing {
namespace {

using parallel::EngineRequest;
using parallel::FinishReason;
using parallel::RequestId;
using parallel::ScheduledStep;

constexpr int32_t kVocab = 50;
constexpr int32_t kFailingToken = 49;

/// What makes one run of the test different from others.
struct Setting {
  const char* name = "";
  std::vector<core::KvLayerGroup> groups;
  std::vector<int64_t> blocks;
  bool plan_ahead = false;
  bool drafts = false;
  int64_t tier_bytes = 0;                 // 0: no records
  bool beside = false;                    // pages are filled while steps go on
  std::vector<int64_t> host_blocks = {};  // of the host tier; empty: none
  int operations = 0;
};

/// Random operations on scheduler, allocator and index, held against what each request must give.
class SchedulerModel {
 public:
  SchedulerModel(const Setting& setting, uint64_t seed)
      : setting_(setting),
        options_{.vocab = kVocab,
                 .largest_vocab_shard = kVocab,
                 .context = 500,
                 .groups = setting.groups,
                 .blocks = setting.blocks,
                 .max_running = 6,
                 .prefill_chunk = 48,
                 .most_logits_a_step = kVocab * 20,
                 .epoch = 3,
                 .records = setting.tier_bytes > 0,
                 .block_bytes = std::vector<int64_t>(setting.groups.size(), 512),
                 .fetch_bytes = 8000,
                 .loads_beside = setting.beside,
                 .host_blocks = setting.host_blocks,
                 .host_block_bytes = std::vector<int64_t>(setting.groups.size(), 10)},
        scheduler_(options_),
        ranks_(options_, setting.tier_bytes),
        random_(seed) {
    ranks_.FailOnToken(kFailingToken);
    scheduler_.SetPromptTokens(
        [this](int32_t, int32_t) { return static_cast<int32_t>(1 + random_.Below(60)); });
    if (setting.drafts) {
      scheduler_.SetDraftSource([this](const parallel::RequestState& state, int32_t most, int32_t) {
        return Draft(state, most);
      });
    }
  }

  void Run() {
    for (int i = 0; i < setting_.operations && !::testing::Test::HasFailure(); ++i) {
      if (random_.Below(8) == 0 && open_.size() < 20) Add();
      if (random_.Below(60) == 0 && !open_.empty()) Cancel();
      if (random_.Below(setting_.tier_bytes > 0 ? 100 : 3000) == 0) scheduler_.ClearCache();
      Step();
    }
    // All that is open ends: nobody waits for ever.
    for (int steps = 0; !open_.empty() && !::testing::Test::HasFailure(); ++steps) {
      ASSERT_LT(steps, 20'000) << open_.size() << " requests do not end";
      Step();
    }
    while (!flight_.empty()) Commit();
    while (scheduler_.has_work() && !::testing::Test::HasFailure()) Step();
    EXPECT_EQ(ranks_.open_fetches(), 0U);
    EXPECT_EQ(scheduler_.fetch_bytes(), 0);
    EXPECT_EQ(scheduler_.running(), 0);
    EXPECT_EQ(scheduler_.waiting(), 0);
    EXPECT_EQ(scheduler_.blocks_used(), 0);
    EXPECT_EQ(scheduler_.host_tier().bytes, 0);
    scheduler_.ClearCache();
    EXPECT_EQ(scheduler_.blocks_cached(), 0);
  }

  int finished = 0;
  int preempted = 0;
  int64_t reused = 0;
  int64_t restored = 0;
  int64_t late = 0;
  int64_t again = 0;
  int64_t loaded_blocks() const { return ranks_.loaded_blocks(); }
  int64_t saved_blocks() const { return ranks_.saved_blocks(); }
  parallel::HostTierStatus host_tier() const { return scheduler_.host_tier(); }
  int64_t copied_blocks() const { return ranks_.copied_blocks(); }
  int64_t right_drafts() const { return ranks_.right_drafts(); }

 private:
  struct Expected {
    EngineRequest request;
    std::vector<int32_t> answer;
    FinishReason reason = FinishReason::kLength;
    size_t answered = 0;
    int64_t next_logit = 0;
  };

  std::vector<int32_t> Draft(const parallel::RequestState& state, int32_t most) {
    const auto count = static_cast<int32_t>(random_.Below(6));
    std::vector<int32_t> drafts = FakeRanks::Answer(state.tokens, std::min(count, most), kVocab);
    for (int32_t& draft : drafts) {
      if (random_.Below(5) == 0) draft = static_cast<int32_t>(random_.Below(kVocab));
    }
    return drafts;
  }

  std::vector<int32_t> Prompt() {
    std::vector<int32_t> prompt;
    if (!past_.empty() && random_.Below(5) != 0) {
      // A fork of, or turn after, an earlier one; the same prompt again, too.
      prompt = past_[random_.Below(past_.size())];
      if (random_.Below(3) != 0) prompt.resize(1 + random_.Below(prompt.size()));
    }
    const size_t more = random_.Below(4) == 0 && !prompt.empty() ? 0 : 1 + random_.Below(150);
    for (size_t i = 0; i < more; ++i) {
      prompt.push_back(static_cast<int32_t>(random_.Below(kVocab - 1)));
    }
    prompt.resize(std::min<size_t>(prompt.size(), 400));
    return prompt;
  }

  void Add() {
    Expected expected;
    EngineRequest& request = expected.request;
    request.prompt = Prompt();
    if (random_.Below(40) == 0) request.prompt.push_back(kFailingToken);
    request.max_tokens = static_cast<int32_t>(random_.Below(120));
    request.want_prompt_logits = random_.Below(8) == 0;
    request.reuse = random_.Below(10) != 0;
    request.tenant = random_.Below(2);
    request.client = random_.Below(4);
    request.priority = static_cast<int32_t>(random_.Below(8)) / 6;
    ASSERT_TRUE(parallel::Scheduler::Check(options_, request).ok());
    const auto limit = std::min<int32_t>(
        request.max_tokens, options_.context - static_cast<int32_t>(request.prompt.size()));
    expected.answer = FakeRanks::Answer(request.prompt, limit, kVocab);
    if (random_.Below(3) == 0) request.stop_tokens = {7, 8};
    for (size_t i = 0; i < expected.answer.size(); ++i) {
      const int32_t token = expected.answer[i];
      // A failing token fails when it is computed with: not if it was the last.
      const bool stops = !request.stop_tokens.empty() && (token == 7 || token == 8);
      if (!stops && !(token == kFailingToken && i + 1 < expected.answer.size())) continue;
      expected.reason = stops ? FinishReason::kStop : FinishReason::kFailed;
      expected.answer.resize(stops ? i : i + 1);
      break;
    }
    for (const int32_t token : request.prompt) {
      if (token != kFailingToken) continue;
      expected.reason = FinishReason::kFailed;
      expected.answer.clear();
    }
    std::vector<int32_t> history = request.prompt;
    history.insert(history.end(), expected.answer.begin(), expected.answer.end());
    if (past_.size() < 12) {
      past_.push_back(history);
    } else {
      past_[random_.Below(past_.size())] = history;
    }
    ranks_.SetTenant(next_id_, request.tenant);
    scheduler_.Add(next_id_, request);
    open_.emplace(next_id_++, std::move(expected));
  }

  void Cancel() {
    auto victim = open_.begin();
    std::advance(victim, static_cast<int64_t>(random_.Below(open_.size())));
    ASSERT_TRUE(scheduler_.Cancel(victim->first));
    ASSERT_FALSE(scheduler_.Cancel(victim->first));
    open_.erase(victim);
  }

  void Schedule() {
    std::optional<ScheduledStep> step = scheduler_.Schedule();
    if (!step) return;
    int32_t prompt_tokens = 0;
    for (const parallel::SequenceWork& work : step->plan.sequences) {
      prompt_tokens += static_cast<int32_t>(work.tokens.size());
    }
    EXPECT_EQ(prompt_tokens, step->prompt_tokens);
    EXPECT_LE(prompt_tokens, options_.prefill_chunk);
    preempted += static_cast<int>(step->preempted.size());
    for (const parallel::Admission& admission : step->admitted) {
      if (!open_.contains(admission.id)) continue;
      const EngineRequest& request = open_[admission.id].request;
      if (!request.reuse || request.want_prompt_logits) {
        EXPECT_EQ(admission.reused_tokens, 0);
        EXPECT_EQ(admission.reuse_limit, parallel::ReuseLimit::kNotAsked);
      }
      reused += admission.reused_tokens;
      EXPECT_EQ(admission.reused_from.total(), static_cast<uint64_t>(admission.reused_tokens));
      EXPECT_EQ(admission.reused_from.disk + admission.reused_from.remote, 0U);
      restored += static_cast<int64_t>(admission.reused_from.host);
      again += admission.again && admission.reused_from.host > 0 ? 1 : 0;
    }
    if (step->plan.sequences.empty()) {
      EXPECT_TRUE(options_.records || !setting_.host_blocks.empty());  // pages move alone
    }
    if (setting_.beside) NoteLoads(*step);
    flight_.push_back(std::move(*step));
  }

  /// Under which number ranks report that they have filled its pages.
  static std::optional<parallel::FetchId> IdOfLoad(const parallel::PageMove& move) {
    if (const auto* load = std::get_if<parallel::BlockLoad>(&move)) return load->fetch;
    if (const auto* back = std::get_if<parallel::PageReturn>(&move)) return back->id;
    return std::nullopt;
  }

  /// Whose pages are being filled has no work.
  void NoteLoads(const ScheduledStep& step) {
    std::vector<parallel::FetchId> loads;  // as their requests were admitted
    for (const parallel::PageMove& move : step.plan.moves) {
      const auto id = IdOfLoad(move);
      if (id && (loads.empty() || loads.back() != *id)) loads.push_back(*id);
    }
    size_t next = 0;
    for (const parallel::Admission& admission : step.admitted) {
      if (admission.reused_from.host == 0) continue;
      ASSERT_LT(next, loads.size());
      loading_[admission.id] = loads[next++];
    }
    ASSERT_EQ(next, loads.size());
    for (const RequestId id : step.preempted) loading_.erase(id);
    for (const RequestId id : step.requests) EXPECT_FALSE(loading_.contains(id)) << id;
  }

  /// Ranks fill pages some time after the plan that loads them.
  void HearFromLoads() {
    if (filling_.empty() || random_.Below(4) == 0) return;
    const size_t at = random_.Below(filling_.size());
    const parallel::FetchId id = filling_[at];
    filling_.erase(filling_.begin() + static_cast<int64_t>(at));
    std::erase_if(loading_, [&](const auto& load) { return load.second == id; });
    scheduler_.Loaded(id);
  }

  /// Tiers answer some time, in any order, or never.
  void HearFromTiers() {
    for (parallel::RecordProbe& probe : scheduler_.TakeProbes())
      probes_.push_back(std::move(probe));
    if (!probes_.empty() && random_.Below(3) != 0) {
      const size_t at = random_.Below(probes_.size());
      const parallel::RecordProbe probe = probes_[at];
      probes_.erase(probes_.begin() + static_cast<int64_t>(at));
      if (random_.Below(20) == 0) {
        scheduler_.Fetched(probe.id, {}, true);
        ++late;
      }
      parallel::SavedTokens saved =
          parallel::FindSaved(ranks_.tier(), {}, options_.groups, 0, probe);
      if (random_.Below(30) == 0) saved = {};
      const auto begun = scheduler_.Probed(probe.id, saved);
      if (begun) {
        EXPECT_LE(scheduler_.fetch_bytes(), options_.fetch_bytes);
      }
    }
    if (!fetches_.empty() && random_.Below(3) != 0) {
      const size_t at = random_.Below(fetches_.size());
      const parallel::FetchId id = fetches_[at];
      fetches_.erase(fetches_.begin() + static_cast<int64_t>(at));
      // Of a request that has ended, the plan that says so may be executed already.
      size_t good = ranks_.fetching(id) ? ranks_.fetched(id) : 0;
      if (random_.Below(8) == 0) good = random_.Below(good + 1);
      const bool too_late = random_.Below(20) == 0;
      late += too_late ? 1 : 0;
      const std::vector<kv_store::TierKind> from(good, kv_store::TierKind::kHost);
      scheduler_.Fetched(id, too_late ? std::span<const kv_store::TierKind>() : from, too_late);
    }
  }

  void Step() {
    HearFromTiers();
    HearFromLoads();
    if (flight_.empty()) Schedule();
    // Now and then nothing goes ahead, so that there is something to guess from.
    if (setting_.plan_ahead && flight_.size() == 1 && random_.Below(4) != 0) Schedule();
    if (flight_.empty()) {
      if (!filling_.empty()) return;
      ASSERT_EQ(scheduler_.blocks_used(), 0);
      if (!probes_.empty() || !fetches_.empty()) return;
      if (scheduler_.has_work()) return;
      ASSERT_TRUE(open_.empty()) << "requests wait but nothing is scheduled";
      return;
    }
    Commit();
    ASSERT_LE(scheduler_.running(), options_.max_running);
    ASSERT_LE(scheduler_.blocks_used() + scheduler_.blocks_cached(), scheduler_.blocks_total());
  }

  void Commit() {
    const ScheduledStep step = std::move(flight_.front());
    flight_.pop_front();
    const parallel::StepResult result = ranks_.Execute(step);
    for (const parallel::BlockFetch& fetch : step.plan.fetches) fetches_.push_back(fetch.id);
    for (const parallel::PageMove& move : step.plan.moves) {
      const auto id = IdOfLoad(move);
      if (!setting_.beside || !id) continue;
      if (filling_.empty() || filling_.back() != *id) filling_.push_back(*id);
    }
    for (const parallel::RequestEvent& event : scheduler_.Commit(step, result)) Take(event);
  }

  void Take(const parallel::RequestEvent& event) {
    ASSERT_TRUE(open_.contains(event.id));
    Expected& expected = open_[event.id];
    if (!event.logits.empty()) {
      EXPECT_TRUE(expected.request.want_prompt_logits);
      EXPECT_EQ(event.first_logit_position, expected.next_logit);
      expected.next_logit += static_cast<int64_t>(event.logits.size()) / kVocab;
    }
    for (const int32_t token : event.tokens) {
      ASSERT_LT(expected.answered, expected.answer.size());
      ASSERT_EQ(token, expected.answer[expected.answered++]);
    }
    if (!event.finish) return;
    EXPECT_EQ(*event.finish, expected.reason) << event.status;
    EXPECT_EQ(expected.answered, expected.answer.size());
    if (expected.request.want_prompt_logits && expected.reason != FinishReason::kFailed) {
      EXPECT_EQ(expected.next_logit, static_cast<int64_t>(expected.request.prompt.size()));
    }
    open_.erase(event.id);
    ++finished;
  }

  const Setting setting_;
  const parallel::SchedulerOptions options_;
  parallel::Scheduler scheduler_;
  FakeRanks ranks_;
  SplitMix random_;
  std::map<RequestId, Expected> open_;
  std::deque<ScheduledStep> flight_;
  std::vector<parallel::RecordProbe> probes_;  // not answered yet
  std::vector<parallel::FetchId> fetches_;     // begun, not answered yet
  std::map<RequestId, parallel::FetchId> loading_;
  std::vector<parallel::FetchId> filling_;  // of plans that were executed, not reported yet
  std::vector<std::vector<int32_t>> past_;
  RequestId next_id_ = 1;
};

const std::vector<core::KvLayerGroup> kBoth = {{.window = 0, .layers = {0}},
                                               {.window = 70, .layers = {1}}};

/// Of sparse attention: global tokens that stay, and some that the layer's own window leaves.
const std::vector<core::KvLayerGroup> kSparse = {
    {.window = 70, .layers = {0}, .global = 70},
    {.window = 33, .layers = {1}, .global = 150, .global_reach = 220}};

/// Of Infini-attention, beside layers with a window of their own.
const std::vector<core::KvLayerGroup> kInfini = {
    {.layers = {0}, .segment = 128},
    {.window = 70, .layers = {1}},
    {.layers = {0}, .segment = 128, .states = true, .state_interval = 256}};
const std::vector<core::KvLayerGroup> kInfiniShort = {
    {.layers = {0}, .segment = 64},
    {.layers = {0}, .segment = 64, .states = true, .state_interval = 200}};

class SchedulerModelTest : public ::testing::TestWithParam<Setting> {};

TEST_P(SchedulerModelTest, EveryRequestGetsItsAnswerFromItsOwnPages) {
  SchedulerModel model(GetParam(), 1);
  model.Run();
  EXPECT_GT(model.finished, GetParam().operations / 60);
  EXPECT_GT(model.preempted, GetParam().operations / 1000);
  EXPECT_GT(model.reused, GetParam().operations);
  EXPECT_GT(model.copied_blocks(), GetParam().operations / 200);
  if (GetParam().drafts) {
    EXPECT_GT(model.right_drafts(), GetParam().operations / 10);
  }
}

class SchedulerSpillModelTest : public ::testing::TestWithParam<Setting> {};

TEST_P(SchedulerSpillModelTest, WhatComesBackFromTheHostTierIsTheRequestsOwn) {
  SchedulerModel model(GetParam(), 3);
  model.Run();
  EXPECT_GT(model.finished, GetParam().operations / 60);
  const parallel::HostTierStatus tier = model.host_tier();
  EXPECT_GT(tier.spilled, static_cast<uint64_t>(GetParam().operations / 2000));
  EXPECT_GT(tier.returned, static_cast<uint64_t>(GetParam().operations / 10'000));
  EXPECT_GE(tier.spilled_bytes, tier.returned_bytes);
}

INSTANTIATE_TEST_SUITE_P(Settings, SchedulerSpillModelTest,
                         ::testing::Values(Setting{.name = "Plain",
                                                   .groups = kBoth,
                                                   .blocks = {14, 12},
                                                   .host_blocks = {40, 40},
                                                   .operations = 30'000},
                                           Setting{.name = "AheadWithDraftsBeside",
                                                   .groups = kBoth,
                                                   .blocks = {14, 12},
                                                   .plan_ahead = true,
                                                   .drafts = true,
                                                   .beside = true,
                                                   .host_blocks = {40, 40},
                                                   .operations = 20'000},
                                           Setting{.name = "FullAttentionTiny",
                                                   .groups = {{.window = 0, .layers = {0}}},
                                                   .blocks = {8},
                                                   .plan_ahead = true,
                                                   .beside = true,
                                                   .host_blocks = {3},
                                                   .operations = 30'000},
                                           Setting{.name = "WithRecords",
                                                   .groups = kBoth,
                                                   .blocks = {14, 12},
                                                   .plan_ahead = true,
                                                   .tier_bytes = 200'000,
                                                   .beside = true,
                                                   .host_blocks = {10, 10},
                                                   .operations = 30'000},
                                           Setting{.name = "Sparse",
                                                   .groups = kSparse,
                                                   .blocks = {14, 16},
                                                   .plan_ahead = true,
                                                   .drafts = true,
                                                   .host_blocks = {20, 20},
                                                   .operations = 20'000},
                                           Setting{.name = "Infini",
                                                   .groups = kInfini,
                                                   .blocks = {14, 14, 8},
                                                   .plan_ahead = true,
                                                   .drafts = true,
                                                   .host_blocks = {20, 20, 10},
                                                   .operations = 20'000}),
                         [](const auto& setting) { return setting.param.name; });

class SchedulerRecordsModelTest : public ::testing::TestWithParam<Setting> {};

TEST_P(SchedulerRecordsModelTest, WhatIsRestoredIsTheRequestsOwn) {
  SchedulerModel model(GetParam(), 2);
  model.Run();
  EXPECT_GT(model.finished, GetParam().operations / 100);
  EXPECT_GT(model.preempted, GetParam().operations / 2000);
  EXPECT_GT(model.saved_blocks(), GetParam().operations / 40);
  EXPECT_GT(model.loaded_blocks(), GetParam().operations / 100);
  EXPECT_GT(model.restored, GetParam().operations / 2);
  EXPECT_GT(model.late, 5);
}

INSTANTIATE_TEST_SUITE_P(Settings, SchedulerRecordsModelTest,
                         ::testing::Values(Setting{.name = "Plain",
                                                   .groups = kBoth,
                                                   .blocks = {14, 12},
                                                   .tier_bytes = 200'000,
                                                   .operations = 30'000},
                                           Setting{.name = "Ahead",
                                                   .groups = kBoth,
                                                   .blocks = {14, 12},
                                                   .plan_ahead = true,
                                                   .tier_bytes = 200'000,
                                                   .operations = 30'000},
                                           Setting{.name = "Beside",
                                                   .groups = kBoth,
                                                   .blocks = {14, 12},
                                                   .tier_bytes = 200'000,
                                                   .beside = true,
                                                   .operations = 30'000},
                                           Setting{.name = "AheadWithDrafts",
                                                   .groups = kBoth,
                                                   .blocks = {14, 12},
                                                   .plan_ahead = true,
                                                   .drafts = true,
                                                   .tier_bytes = 200'000,
                                                   .beside = true,
                                                   .operations = 20'000},
                                           Setting{.name = "TinyTier",
                                                   .groups = kBoth,
                                                   .blocks = {14, 12},
                                                   .plan_ahead = true,
                                                   .tier_bytes = 20'000,
                                                   .operations = 30'000},
                                           Setting{.name = "FullAttentionTiny",
                                                   .groups = {{.window = 0, .layers = {0}}},
                                                   .blocks = {8},
                                                   .plan_ahead = true,
                                                   .tier_bytes = 100'000,
                                                   .operations = 20'000},
                                           Setting{.name = "WindowsAlone",
                                                   .groups = {{.window = 70, .layers = {0}},
                                                              {.window = 130, .layers = {1}}},
                                                   .blocks = {12, 14},
                                                   .plan_ahead = true,
                                                   .tier_bytes = 200'000,
                                                   .operations = 20'000},
                                           Setting{.name = "Sparse",
                                                   .groups = kSparse,
                                                   .blocks = {14, 16},
                                                   .plan_ahead = true,
                                                   .drafts = true,
                                                   .tier_bytes = 200'000,
                                                   .operations = 20'000},
                                           Setting{.name = "Infini",
                                                   .groups = kInfini,
                                                   .blocks = {14, 14, 8},
                                                   .plan_ahead = true,
                                                   .drafts = true,
                                                   .tier_bytes = 200'000,
                                                   .operations = 20'000},
                                           Setting{.name = "InfiniShort",
                                                   .groups = kInfiniShort,
                                                   .blocks = {12, 12},
                                                   .tier_bytes = 200'000,
                                                   .operations = 20'000}),
                         [](const auto& setting) { return setting.param.name; });

INSTANTIATE_TEST_SUITE_P(Settings, SchedulerModelTest,
                         ::testing::Values(Setting{.name = "Plain",
                                                   .groups = kBoth,
                                                   .blocks = {14, 12},
                                                   .operations = 30'000},
                                           Setting{.name = "Ahead",
                                                   .groups = kBoth,
                                                   .blocks = {14, 12},
                                                   .plan_ahead = true,
                                                   .operations = 40'000},
                                           Setting{.name = "Drafts",
                                                   .groups = kBoth,
                                                   .blocks = {14, 12},
                                                   .drafts = true,
                                                   .operations = 20'000},
                                           Setting{.name = "AheadWithDrafts",
                                                   .groups = kBoth,
                                                   .blocks = {14, 12},
                                                   .plan_ahead = true,
                                                   .drafts = true,
                                                   .operations = 20'000},
                                           Setting{.name = "FullAttentionTiny",
                                                   .groups = {{.window = 0, .layers = {0}}},
                                                   .blocks = {8},
                                                   .plan_ahead = true,
                                                   .operations = 20'000},
                                           Setting{.name = "Sparse",
                                                   .groups = kSparse,
                                                   .blocks = {14, 16},
                                                   .plan_ahead = true,
                                                   .drafts = true,
                                                   .operations = 20'000},
                                           Setting{.name = "Infini",
                                                   .groups = kInfini,
                                                   .blocks = {14, 14, 8},
                                                   .plan_ahead = true,
                                                   .drafts = true,
                                                   .operations = 20'000},
                                           Setting{.name = "InfiniShort",
                                                   .groups = kInfiniShort,
                                                   .blocks = {12, 12},
                                                   .plan_ahead = true,
                                                   .operations = 20'000}),
                         [](const auto& setting) { return setting.param.name; });

}  // namespace
}  // namespace tandem::testing
