#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <optional>

#include "kv_store/pages/pool_size.h"
#include "parallel/communicators/thread_communicator.h"
#include "parallel/coordinator/rank_setup.h"
#include "tests/parallel/communicators/thread_ranks.h"
#include "tests/parallel/coordinator/engine_suite.h"
#include "tests/support/fake_model.h"
#include "tests/support/logprobs.h"
#include "tests/support/random.h"

namespace tandem::testing {
namespace {

using core::SamplingParams;
using parallel::ScoredTokens;

/// Guesses of the answer tokens from number `answered` on; the first of them is sampled anyhow.
using Guess = std::function<std::vector<int32_t>(size_t answered)>;

/// One sequence that is run through the ranks, step by step.
struct Sequence {
  std::vector<int32_t> prompt;
  size_t answer_tokens = 0;
  SamplingParams sampling = {};
  ScoredTokens score = ScoredTokens::kSampled;
  Guess guess = nullptr;  // none: no drafts
};

/// What came of it.
struct Answer {
  std::vector<int32_t> tokens;
  std::vector<core::TokenScore> scores;  // [tokens] of the model's own logits
  std::optional<parallel::NumericFailure> failure;
  int steps = 0;
};

struct Outcome {
  std::vector<Answer> answers;  // as rank 0 saw them
  parallel::Digest digest{};    // the same on all ranks (checked)
};

struct ModelFaults {
  int32_t failing_token = -1;
  int32_t broken_token = -1;
};

constexpr int32_t kVocab = 211;
constexpr int32_t kTop = 5;
constexpr int32_t kMostDrafts = 12;

/// Plans the steps of some sequences, all tokens of the prompt in the first: what a scheduler does,
/// as simply as it can be done. Blocks are never used twice.
class Planner {
 public:
  Planner(std::vector<Sequence> sequences, std::vector<core::KvLayerGroup> groups)
      : sequences_(std::move(sequences)),
        groups_(std::move(groups)),
        answers_(sequences_.size()),
        next_block_(groups_.size(), 0),
        tables_(sequences_.size(), std::vector<std::vector<core::BlockId>>(groups_.size())) {}

  static int64_t BlocksNeeded(const std::vector<Sequence>& sequences) {
    int64_t blocks = 0;
    for (const Sequence& sequence : sequences) {
      blocks += kv_store::BlocksFor(
          static_cast<int64_t>(sequence.prompt.size() + sequence.answer_tokens + kMostDrafts));
    }
    return blocks;
  }

  bool done() const {
    for (size_t s = 0; s < sequences_.size(); ++s) {
      if (Open(s)) return false;
    }
    return true;
  }

  parallel::StepPlan Next() {
    parallel::StepPlan plan;
    plan.step = ++step_;
    working_.clear();
    for (size_t s = 0; s < sequences_.size(); ++s) {
      if (!Open(s)) continue;
      const Sequence& sequence = sequences_[s];
      parallel::SequenceWork work;
      work.slot = static_cast<parallel::SlotId>(s);
      const size_t answered = answers_[s].tokens.size();
      if (step_ == 1) {
        plan.opened.push_back(
            {.slot = work.slot,
             .sampling = sequence.sampling,
             .candidates_per_rank = core::CandidatesPerRank(sequence.sampling, largest_shard),
             .first_token_index = 0,
             .history = {}});
        work.tokens = sequence.prompt;
      } else {
        work.start_position = static_cast<int32_t>(sequence.prompt.size() + answered) - 1;
      }
      if (sequence.guess) work.drafts = sequence.guess(answered);
      work.sample = true;
      work.score = sequence.score;
      work.top = kTop;
      for (size_t g = 0; g < groups_.size(); ++g) work.table_changes.push_back(Grow(s, g, work));
      plan.sequences.push_back(std::move(work));
      working_.push_back(s);
    }
    return plan;
  }

  void Take(const parallel::StepPlan& plan, const parallel::StepResult& result) {
    const core::TokenScore* scores = result.scores.data();
    for (size_t i = 0; i < working_.size(); ++i) {
      const parallel::SequenceWork& work = plan.sequences[i];
      const parallel::SequenceResult& outcome = result.sequences[i];
      Answer& answer = answers_[working_[i]];
      ++answer.steps;
      answer.tokens.insert(answer.tokens.end(), outcome.tokens.begin(), outcome.tokens.end());
      answer.failure = outcome.failure;
      if (work.score == ScoredTokens::kNone) continue;
      const core::TokenScore* sampled = scores + work.score_rows() - work.sample_rows();
      answer.scores.insert(answer.scores.end(), sampled, sampled + outcome.tokens.size());
      scores += work.score_rows();
    }
  }

  std::vector<Answer> answers() const { return answers_; }

  int32_t largest_shard = 0;

 private:
  bool Open(size_t s) const {
    return !answers_[s].failure && answers_[s].tokens.size() < sequences_[s].answer_tokens;
  }

  std::vector<parallel::BlockChange> Grow(size_t s, size_t group,
                                          const parallel::SequenceWork& work) {
    std::vector<parallel::BlockChange> changes;
    auto& table = tables_[s][group];
    if (groups_[group].window > 0) {
      const int32_t first = std::max(0, work.start_position - groups_[group].window + 1);
      for (int32_t i = 0; i < first / core::kPageTokens; ++i) {
        core::BlockId& block = table[static_cast<size_t>(i)];
        if (block == core::kNoBlock) continue;
        block = core::kNoBlock;
        changes.push_back({.index = i, .block = core::kNoBlock});
      }
    }
    while (static_cast<int64_t>(table.size()) <
           kv_store::BlocksFor(work.start_position + work.token_count())) {
      changes.push_back({.index = static_cast<int32_t>(table.size()), .block = next_block_[group]});
      table.push_back(next_block_[group]++);
    }
    return changes;
  }

  std::vector<Sequence> sequences_;
  std::vector<core::KvLayerGroup> groups_;
  std::vector<Answer> answers_;
  std::vector<core::BlockId> next_block_;                        // [layer groups]
  std::vector<std::vector<std::vector<core::BlockId>>> tables_;  // [sequences][layer groups]
  std::vector<size_t> working_;
  uint64_t step_ = 0;
};

Outcome RunOn(int ranks, const std::vector<Sequence>& sequences, const ModelFaults& faults = {}) {
  const auto make = FakeShards(ranks);
  std::vector<Outcome> outcomes(static_cast<size_t>(ranks));
  const auto statuses = parallel::RunRanks(
      parallel::MakeThreadWorld(ranks), [&](parallel::Communicator& world) -> absl::Status {
        const auto model = make(world.rank());
        static_cast<FakeModel&>(*model).FailOnToken(faults.failing_token);
        static_cast<FakeModel&>(*model).BreakLogitsOnToken(faults.broken_token);
        parallel::RankOptions options;
        options.max_running = static_cast<int32_t>(sequences.size());
        // Some block of each group for every page of every sequence.
        options.kv_memory = Planner::BlocksNeeded(sequences) * 3 * 64 * 32 * 2 * 2 * 3 * 2;
        TANDEM_ASSIGN_OR_RETURN(const parallel::RankSetup setup,
                                parallel::SetUpRank(options, world, *model));
        Planner planner(sequences, setup.scheduler.groups);
        planner.largest_shard = setup.scheduler.largest_vocab_shard;
        Outcome& outcome = outcomes[static_cast<size_t>(world.rank())];
        while (!planner.done()) {
          const parallel::StepPlan plan = planner.Next();
          TANDEM_ASSIGN_OR_RETURN(const parallel::StepResult result,
                                  setup.runner->Execute(plan, {}));
          planner.Take(plan, result);
          EXPECT_TRUE(result.logits.empty());  // scores take no logits to rank 0
          outcome.digest = result.digest;
        }
        outcome.answers = planner.answers();
        return absl::OkStatus();
      });
  for (const absl::Status& status : statuses) EXPECT_TRUE(status.ok()) << status;
  for (const Outcome& outcome : outcomes) {
    EXPECT_EQ(outcome.digest, outcomes[0].digest);
    EXPECT_EQ(outcome.answers.size(), outcomes[0].answers.size());
  }
  return outcomes[0];
}

void ExpectSameBits(const Answer& found, const Answer& expected) {
  ASSERT_FALSE(found.failure.has_value());
  ASSERT_GE(found.tokens.size(), expected.tokens.size());  // the last step may give more
  for (size_t i = 0; i < expected.tokens.size(); ++i) {
    ASSERT_EQ(found.tokens[i], expected.tokens[i]) << "answer token " << i;
  }
  if (found.scores.empty()) return;
  ASSERT_GE(found.scores.size(), expected.scores.size());
  for (size_t i = 0; i < expected.scores.size(); ++i) {
    ASSERT_TRUE(expected.scores[i].has_value());
    ASSERT_EQ(found.scores[i], expected.scores[i]) << "answer token " << i;
  }
}

std::vector<int32_t> RandomTokens(SplitMix& random, size_t count) {
  std::vector<int32_t> tokens(count);
  for (int32_t& token : tokens) token = static_cast<int32_t>(random.Below(kVocab));
  return tokens;
}

/// Up to `most` tokens of the true answer behind the one that is sampled anyhow.
std::vector<int32_t> Truth(const std::vector<int32_t>& answer, size_t answered, size_t most) {
  std::vector<int32_t> tokens;
  for (size_t i = answered; i < answer.size() && tokens.size() < most; ++i) {
    tokens.push_back(answer[i]);
  }
  return tokens;
}

int32_t Another(int32_t token) { return (token + 1) % kVocab; }

struct SamplingCase {
  const char* name;
  SamplingParams params;
};

std::vector<SamplingCase> SamplingCases() {
  SamplingParams top_k{.temperature = 0.9F, .top_k = 20, .seed = 11, .logit_bias = {}};
  SamplingParams top_p{.temperature = 1.3F, .top_p = 0.8F, .seed = 12, .logit_bias = {}};
  SamplingParams penalty{.repetition_penalty = 1.7F, .logit_bias = {}};
  SamplingParams answer{.presence_penalty = 0.4F, .frequency_penalty = 0.9F, .logit_bias = {}};
  SamplingParams all{.temperature = 0.7F,
                     .min_p = 0.01F,
                     .repetition_penalty = 1.3F,
                     .presence_penalty = -0.3F,
                     .frequency_penalty = 0.2F,
                     .seed = 13,
                     .logit_bias = {}};
  for (int32_t token = 0; token < kVocab; token += 2) all.logit_bias.push_back({token, 2.5F});
  return {{"Greedy", {}},
          {"TopK", top_k},
          {"TopP", top_p},
          {"Penalty", penalty},
          {"AnswerPenalties", answer},
          {"All", all}};
}

class DraftVerification : public ::testing::TestWithParam<std::tuple<int, SamplingCase>> {
 protected:
  int ranks() const { return std::get<0>(GetParam()); }

  /// 50 tokens, and an answer that crosses three page borders and leaves the window of 100 behind.
  Sequence Undrafted() const {
    SplitMix random(5);
    return {.prompt = RandomTokens(random, 50),
            .answer_tokens = 190,
            .sampling = std::get<1>(GetParam()).params};
  }
};

TEST_P(DraftVerification, WithoutDraftsItIsTheModelsAnswer) {
  const Sequence sequence = Undrafted();
  const Answer answer = RunOn(ranks(), {sequence}).answers[0];
  ASSERT_EQ(answer.tokens.size(), sequence.answer_tokens);
  std::vector<int32_t> history = sequence.prompt;
  for (size_t i = 0; i < answer.tokens.size(); ++i) {
    ASSERT_EQ(answer.scores[i],
              LogprobsOf(FakeLogits(FakeConfig(), history), answer.tokens[i], kTop));
    history.push_back(answer.tokens[i]);
  }
}

TEST_P(DraftVerification, RightGuessesGiveManyTokensAStepOfTheSameBits) {
  Sequence sequence = Undrafted();
  const Answer expected = RunOn(1, {sequence}).answers[0];
  for (const size_t drafts : {size_t{1}, size_t{3}, size_t{8}, size_t{kMostDrafts}}) {
    sequence.guess = [&](size_t answered) { return Truth(expected.tokens, answered, drafts); };
    const Answer found = RunOn(ranks(), {sequence}).answers[0];
    ExpectSameBits(found, expected);
    const auto each = static_cast<int>(drafts) + 1;
    EXPECT_EQ(found.steps, (190 + each - 1) / each) << drafts << " drafts";
  }
}

TEST_P(DraftVerification, WrongGuessesChangeNothing) {
  Sequence sequence = Undrafted();
  const Answer expected = RunOn(1, {sequence}).answers[0];
  sequence.guess = [&](size_t answered) {
    std::vector<int32_t> tokens = Truth(expected.tokens, answered, 7);
    if (!tokens.empty()) tokens[0] = Another(tokens[0]);  // the others are right, to no avail
    return tokens;
  };
  const Answer found = RunOn(ranks(), {sequence}).answers[0];
  ExpectSameBits(found, expected);
  EXPECT_EQ(found.steps, expected.steps);
}

TEST_P(DraftVerification, PartlyRightGuessesInRandomBatches) {
  // Three sequences with other numbers of drafts, scores and candidates in the same steps.
  SplitMix random(17);
  std::vector<Sequence> sequences(3, Undrafted());
  sequences[1].prompt = RandomTokens(random, 127);
  sequences[1].sampling = {};
  sequences[1].score = ScoredTokens::kAll;
  sequences[2].prompt = RandomTokens(random, 3);
  sequences[2].sampling = {.temperature = 1.0F, .top_k = 5, .seed = 3, .logit_bias = {}};
  sequences[2].score = ScoredTokens::kNone;
  std::vector<Answer> expected;
  for (const Sequence& sequence : sequences) {
    Sequence alone = sequence;
    alone.score = ScoredTokens::kSampled;
    expected.push_back(RunOn(1, {alone}).answers[0]);
  }
  for (uint64_t round = 0; round < 4; ++round) {
    for (size_t s = 0; s < sequences.size(); ++s) {
      // The same guesses on every rank: they depend on what was answered alone.
      sequences[s].guess = [&, s, round](size_t answered) {
        SplitMix guesses(answered * 31 + s * 7 + round);
        std::vector<int32_t> tokens =
            Truth(expected[s].tokens, answered, guesses.Below(kMostDrafts + 1));
        if (!tokens.empty() && guesses.Below(3) > 0) {
          int32_t& wrong = tokens[guesses.Below(tokens.size())];
          wrong = Another(wrong);
        }
        return tokens;
      };
    }
    const Outcome outcome = RunOn(ranks(), sequences);
    for (size_t s = 0; s < sequences.size(); ++s) {
      SCOPED_TRACE(fmt::format("sequence {}", s));
      ExpectSameBits(outcome.answers[s], expected[s]);
      EXPECT_LT(outcome.answers[s].steps, expected[s].steps);
    }
  }
}

TEST_P(DraftVerification, AFailureMattersOnlyWhereTheGuessWasRight) {
  Sequence sequence = Undrafted();
  sequence.answer_tokens = 100;  // with the prompt fewer than the vocabulary: some never come
  const Answer expected = RunOn(1, {sequence}).answers[0];
  // A token that the answer gives for the first time at `at`, and one that it never gives.
  constexpr size_t kAt = 40;
  size_t at = kAt;
  const auto before = [&](int32_t token, size_t end) {
    return std::count(sequence.prompt.begin(), sequence.prompt.end(), token) +
           std::count(expected.tokens.begin(),
                      expected.tokens.begin() + static_cast<ptrdiff_t>(end), token);
  };
  while (before(expected.tokens[at], at) > 0) ++at;
  int32_t never = 0;
  while (before(never, expected.tokens.size()) > 0) ++never;

  for (const bool in_logits : {false, true}) {
    SCOPED_TRACE(in_logits ? "in logits" : "in sums");
    const auto faults = [&](int32_t token) {
      return in_logits ? ModelFaults{.broken_token = token} : ModelFaults{.failing_token = token};
    };
    sequence.guess = [&](size_t answered) {
      std::vector<int32_t> tokens = Truth(expected.tokens, answered, 4);
      if (tokens.size() == 4) tokens[2] = never;
      return tokens;
    };
    ExpectSameBits(RunOn(ranks(), {sequence}, faults(never)).answers[0], expected);

    // Whatever is drafted, the failure is that of the request without drafts, behind the tokens
    // that it gave.
    for (const size_t drafts : {size_t{0}, size_t{1}, size_t{5}, size_t{8}}) {
      sequence.guess = [&](size_t answered) { return Truth(expected.tokens, answered, drafts); };
      const Answer failed = RunOn(ranks(), {sequence}, faults(expected.tokens[at])).answers[0];
      ASSERT_TRUE(failed.failure.has_value()) << drafts << " drafts";
      EXPECT_EQ(failed.failure->position, static_cast<int64_t>(sequence.prompt.size() + at));
      EXPECT_EQ(failed.failure->in_logits, in_logits);
      EXPECT_EQ(failed.tokens, Truth(expected.tokens, 0, at + 1));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Ranks, DraftVerification,
                         ::testing::Combine(::testing::Values(1, 2, 3),
                                            ::testing::ValuesIn(SamplingCases())),
                         [](const auto& values) {
                           return fmt::format("{}Ranks{}", std::get<1>(values.param).name,
                                              std::get<0>(values.param));
                         });

}  // namespace
}  // namespace tandem::testing
