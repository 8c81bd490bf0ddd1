#include "parallel/rank/rank_runner.h"

#include <algorithm>
#include <cstring>
#include <span>
#include <utility>

#include "core/base/wire.h"
#include "kv_store/pages/page_pool.h"

namespace tandem::parallel {

/// Which rows of the step's logits belong to which sequence of the plan.
struct RankRunner::Rows {
  std::vector<int64_t> first;  // [sequences]
  int64_t total = 0;
  int64_t gathered = 0;  // of sequences whose logits go to rank 0
};

namespace {

void BeginPhases(const StepPlan& plan, core::PhaseClock& phases) {
  bool prompts = false;
  int64_t tokens = 0;
  for (const SequenceWork& work : plan.sequences) {
    prompts = prompts || !work.tokens.empty();
    tokens += work.token_count();
  }
  phases.BeginStep(prompts ? 0 : static_cast<int64_t>(plan.sequences.size()), tokens);
}

core::StepPhase VocabularyPhase(const StepPlan& plan) {
  return {.step = plan.step, .layer = -1, .kind = core::StepPhase::Kind::kVocabulary};
}

}  // namespace

RankRunner::RankRunner(core::Model& model, const core::KvView& cache, core::Collective& collective,
                       SlotTable slots, std::vector<core::Range> vocab_shards, RankRecords* records,
                       core::PhaseClock* phases)
    : model_(model),
      cache_(cache),
      collective_(collective),
      slots_(std::move(slots)),
      vocab_shards_(std::move(vocab_shards)),
      records_(records),
      phases_(phases) {
  for (const core::Range& rows : vocab_shards_)
    largest_shard_ = std::max(largest_shard_, rows.count);
}

absl::StatusOr<StepResult> RankRunner::Execute(const StepPlan& plan, const Digest& plan_hash) {
  if (phases_ != nullptr && !plan.sequences.empty()) BeginPhases(plan, *phases_);
  TANDEM_RETURN_IF_ERROR(slots_.Apply(plan));
  TANDEM_RETURN_IF_ERROR(MovePages(plan));
  StepResult result;
  result.sequences.resize(plan.sequences.size());
  if (!plan.sequences.empty()) {
    Rows rows;
    TANDEM_RETURN_IF_ERROR(Forward(plan, rows));
    NoteFailures(plan, result);
    TANDEM_RETURN_IF_ERROR(GatherLogits(plan, rows, result));
    TANDEM_RETURN_IF_ERROR(Sample(plan, rows, result));
    if (phases_ != nullptr) phases_->Lap(core::Phase::kSampling);
  }
  AddToDigest(plan_hash, result);
  return result;
}

absl::Status RankRunner::MovePages(const StepPlan& plan) {
  const bool of_records = !plan.saves.empty() || plan.flush || !plan.fetches.empty();
  if (of_records && records_ == nullptr) {
    return Internal("step plan {}: it saves or fetches records, but this rank has no tier",
                    plan.step);
  }
  if (records_ != nullptr) {
    records_->Save(plan, [this](int64_t tasks, absl::FunctionRef<void(int64_t)> body) {
      model_.ParallelFor(tasks, body);
    });
  }
  const std::span<const PageMove> moves(plan.moves);
  for (size_t i = 0; i < moves.size(); ++i) {
    if (const auto* copy = std::get_if<BlockCopy>(&moves[i])) {
      kv_store::CopyBlock(cache_, static_cast<size_t>(copy->group), copy->from, copy->to);
      continue;
    }
    if (records_ == nullptr) {
      return Internal("step plan {}: it loads records, but this rank has no tier", plan.step);
    }
    size_t end = i + 1;
    while (end < moves.size() && std::holds_alternative<BlockLoad>(moves[end])) ++end;
    TANDEM_RETURN_IF_ERROR(Load(moves.subspan(i, end - i)));
    i = end - 1;
  }
  if (records_ != nullptr) records_->Fetch(plan);
  return absl::OkStatus();
}

absl::Status RankRunner::Load(std::span<const PageMove> loads) {
  // Most of it is pages' first touch, which several threads do faster.
  std::vector<absl::Status> loaded(loads.size());
  model_.ParallelFor(static_cast<int64_t>(loads.size()), [&](int64_t i) {
    const auto at = static_cast<size_t>(i);
    loaded[at] = records_->Load(std::get<BlockLoad>(loads[at]));
  });
  for (absl::Status& status : loaded) TANDEM_RETURN_IF_ERROR(std::move(status));
  return absl::OkStatus();
}

absl::Status RankRunner::Forward(const StepPlan& plan, Rows& rows) {
  std::vector<int32_t> tokens;
  std::vector<int32_t> logit_tokens;
  std::vector<core::SequenceSlice> slices;
  for (const SequenceWork& work : plan.sequences) {
    const SlotState& state = slots_.slot(work.slot);
    core::SequenceSlice slice{.first_token = static_cast<int32_t>(tokens.size()),
                              .tokens = work.token_count(),
                              .start_position = work.start_position,
                              .block_tables = {}};
    for (const auto& table : state.tables) slice.block_tables.emplace_back(table);
    const auto first = state.history.begin() + work.start_position;
    tokens.insert(tokens.end(), first, first + work.known_count());
    tokens.insert(tokens.end(), work.drafts.begin(), work.drafts.end());

    rows.first.push_back(rows.total);
    const int64_t wanted = work.logit_rows();
    for (int64_t i = wanted; i > 0; --i) {
      logit_tokens.push_back(static_cast<int32_t>(static_cast<int64_t>(tokens.size()) - i));
    }
    rows.total += wanted;
    if (work.gather != parallel::GatherLogits::kNone) rows.gathered += wanted;
    slices.push_back(std::move(slice));
  }
  const core::Batch batch{.step = plan.step,
                          .tokens = tokens,
                          .sequences = slices,
                          .logit_tokens = logit_tokens,
                          .phases = phases_};
  logits_.token_failed.clear();
  TANDEM_RETURN_IF_ERROR(model_.Forward(batch, cache_, collective_, logits_));
  const auto expected = static_cast<size_t>(rows.total * logits_.vocab_rows.count);
  if (logits_.values.size() < expected ||
      logits_.vocab_rows != vocab_shards_[static_cast<size_t>(collective_.rank())]) {
    return Internal("step {}: the forward pass gave {} logits of {} rows, expected {}", plan.step,
                    logits_.values.size(), logits_.vocab_rows.count, expected);
  }
  return absl::OkStatus();
}

bool RankRunner::TokenFailed(int64_t token) const {
  const auto index = static_cast<size_t>(token);
  return index < logits_.token_failed.size() && logits_.token_failed[index] != 0;
}

void RankRunner::NoteFailures(const StepPlan& plan, StepResult& result) const {
  int64_t token = 0;
  for (size_t s = 0; s < plan.sequences.size(); ++s) {
    const SequenceWork& work = plan.sequences[s];
    // A guess that fails matters only if it was right: TakeSamples sees to those.
    for (int32_t i = 0; i < work.known_count(); ++i) {
      if (TokenFailed(token + i) && !result.sequences[s].failure) {
        result.sequences[s].failure =
            NumericFailure{.position = int64_t{work.start_position} + i, .in_logits = false};
      }
    }
    token += work.token_count();
  }
}

absl::Status RankRunner::GatherLogits(const StepPlan& plan, const Rows& rows, StepResult& result) {
  if (rows.gathered == 0) return absl::OkStatus();
  const int64_t mine_count = logits_.vocab_rows.count;
  std::vector<float> mine(static_cast<size_t>(rows.gathered * largest_shard_), 0.0F);
  int64_t to = 0;
  for (size_t s = 0; s < plan.sequences.size(); ++s) {
    if (plan.sequences[s].gather == parallel::GatherLogits::kNone) continue;
    for (int64_t i = 0; i < plan.sequences[s].logit_rows(); ++i, ++to) {
      std::copy_n(logits_.values.begin() + (rows.first[s] + i) * mine_count, mine_count,
                  mine.begin() + to * largest_shard_);
    }
  }
  std::vector<float> all(mine.size() * static_cast<size_t>(collective_.size()));
  TANDEM_RETURN_IF_ERROR(collective_.AllGather(std::as_bytes(std::span(mine)),
                                               std::as_writable_bytes(std::span(all)),
                                               VocabularyPhase(plan)));
  if (collective_.rank() != 0) return absl::OkStatus();
  const int64_t vocab = model_.config().vocab;
  result.logits.resize(static_cast<size_t>(rows.gathered * vocab));
  for (size_t rank = 0; rank < vocab_shards_.size(); ++rank) {
    const core::Range& shard = vocab_shards_[rank];
    const auto part = all.begin() + static_cast<int64_t>(rank * mine.size());
    for (int64_t row = 0; row < rows.gathered; ++row) {
      std::copy_n(part + row * largest_shard_, shard.count,
                  result.logits.begin() + row * vocab + shard.begin);
    }
  }
  return absl::OkStatus();
}

absl::Status RankRunner::Sample(const StepPlan& plan, const Rows& rows, StepResult& result) {
  const std::vector<core::Candidate> mine = OwnCandidates(plan, rows);
  if (mine.empty()) return absl::OkStatus();
  std::vector<core::Candidate> all(mine.size() * static_cast<size_t>(collective_.size()));
  TANDEM_RETURN_IF_ERROR(collective_.AllGather(std::as_bytes(std::span(mine)),
                                               std::as_writable_bytes(std::span(all)),
                                               VocabularyPhase(plan)));
  std::span<const core::Candidate> candidates(all);
  int64_t token = 0;
  for (size_t s = 0; s < plan.sequences.size(); ++s) {
    const SequenceWork& work = plan.sequences[s];
    if (work.sample) {
      TakeSamples(work, token, candidates, static_cast<int64_t>(mine.size()), result.sequences[s]);
      const auto each = static_cast<size_t>(slots_.slot(work.slot).candidates_per_rank);
      candidates = candidates.subspan(each * static_cast<size_t>(work.sample_rows()));
    }
    token += work.token_count();
  }
  return absl::OkStatus();
}

std::vector<core::Candidate> RankRunner::OwnCandidates(const StepPlan& plan, const Rows& rows) {
  const int64_t shard_rows = logits_.vocab_rows.count;
  std::vector<core::Candidate> mine;
  for (size_t s = 0; s < plan.sequences.size(); ++s) {
    const SequenceWork& work = plan.sequences[s];
    if (!work.sample) continue;
    SlotState& state = slots_.slot(work.slot);
    const size_t known = state.history.size();
    const int64_t first = rows.first[s] + work.logit_rows() - work.sample_rows();
    for (int64_t i = 0; i < work.sample_rows(); ++i) {
      const std::span<float> row(logits_.values.data() + (first + i) * shard_rows,
                                 static_cast<size_t>(shard_rows));
      core::ApplyPenalties(state.sampling, state.history, logits_.vocab_rows.begin, row);
      const size_t at = mine.size();
      mine.resize(at + static_cast<size_t>(state.candidates_per_rank));
      core::SelectCandidates(row, logits_.vocab_rows.begin, std::span(mine).subspan(at));
      // What is sampled after a guess counts only if the guess was right: then it is history.
      if (static_cast<size_t>(i) < work.drafts.size()) {
        state.history.push_back(work.drafts[static_cast<size_t>(i)]);
      }
    }
    state.history.resize(known);
  }
  return mine;
}

/// candidates: of this sequence's first row on rank 0; those of the next rank stand `stride`
/// behind. first_token: this sequence's first one in the batch.
void RankRunner::TakeSamples(const SequenceWork& work, int64_t first_token,
                             std::span<const core::Candidate> candidates, int64_t stride,
                             SequenceResult& result) {
  SlotState& state = slots_.slot(work.slot);
  const auto each = static_cast<int64_t>(state.candidates_per_rank);
  for (int32_t i = 0; i < work.sample_rows(); ++i) {
    const int32_t in_work = work.known_count() - 1 + i;
    if (i > 0 && TokenFailed(first_token + in_work)) {
      result.failure =
          NumericFailure{.position = int64_t{work.start_position} + in_work, .in_logits = false};
    }
    std::vector<core::Candidate> of_row;
    for (int64_t rank = 0; rank < collective_.size(); ++rank) {
      const auto first = candidates.begin() + rank * stride + i * each;
      of_row.insert(of_row.end(), first, first + each);
    }
    const std::optional<int32_t> token =
        core::SampleToken(state.sampling, state.next_token_index++, std::move(of_row));
    if (!token && !result.failure) {
      result.failure =
          NumericFailure{.position = int64_t{work.start_position} + in_work, .in_logits = true};
    }
    // A plan that left before this failure was known still runs the slot, on token 0.
    state.history.push_back(token.value_or(0));
    if (result.failure) break;
    result.tokens.push_back(*token);
    const bool guessed = static_cast<size_t>(i) < work.drafts.size() &&
                         work.drafts[static_cast<size_t>(i)] == *token;
    if (!guessed) break;
  }
}

void RankRunner::AddToDigest(const Digest& plan_hash, StepResult& result) {
  core::WireWriter writer;
  writer.Raw(std::as_bytes(std::span(plan_hash)));
  for (const SequenceResult& sequence : result.sequences) {
    writer.Numbers(std::span(sequence.tokens));
    writer.Bool(sequence.failure.has_value());
  }
  digest_.Add(writer.bytes());
  result.digest = digest_.value();
}

}  // namespace tandem::parallel
