#include "parallel/rank/rank_runner.h"

#include <algorithm>
#include <cstring>
#include <span>
#include <utility>

#include "core/base/wire.h"

namespace tandem::parallel {

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

std::vector<PoolBlock> BlocksOf(const std::vector<BlockSave>& saves) {
  std::vector<PoolBlock> blocks;
  for (const BlockSave& save : saves) {
    for (size_t g = 0; g < save.blocks.size(); ++g) {
      if (save.blocks[g] != core::kNoBlock) blocks.push_back({g, save.blocks[g]});
    }
  }
  return blocks;
}

std::vector<PoolBlock> BlocksOf(const std::vector<SpilledBlock>& spilled) {
  std::vector<PoolBlock> blocks;
  blocks.reserve(spilled.size());
  for (const SpilledBlock& at : spilled) {
    blocks.push_back({static_cast<size_t>(at.group), at.block});
  }
  return blocks;
}

core::StepPhase VocabularyPhase(const StepPlan& plan) {
  return {.step = plan.step, .layer = -1, .kind = core::StepPhase::Kind::kVocabulary};
}

}  // namespace

RankRunner::RankRunner(Parts parts)
    : model_(parts.model),
      pool_(parts.pool),
      collective_(parts.collective),
      slots_(std::move(parts.slots)),
      vocab_shards_(std::move(parts.vocab_shards)),
      traffic_(parts.traffic),
      records_(parts.records),
      spilled_(parts.spilled),
      phases_(parts.phases) {
  for (const core::Range& rows : vocab_shards_)
    largest_shard_ = std::max(largest_shard_, rows.count);
}

absl::StatusOr<StepResult> RankRunner::Execute(const StepPlan& plan, const Digest& plan_hash) {
  TANDEM_RETURN_IF_ERROR(Begin(plan));
  return Finish(plan, plan_hash);
}

absl::Status RankRunner::Begin(const StepPlan& plan) {
  if (phases_ != nullptr && !plan.sequences.empty()) BeginPhases(plan, *phases_);
  TANDEM_RETURN_IF_ERROR(slots_.Apply(plan));
  TANDEM_RETURN_IF_ERROR(MovePages(plan));
  Begun begun;
  if (!plan.sequences.empty()) {
    TANDEM_ASSIGN_OR_RETURN(begun.places, Forward(plan));
    TANDEM_ASSIGN_OR_RETURN(begun.kept, Keep(plan, begun.places));
  }
  begun_.push_back(std::move(begun));
  return absl::OkStatus();
}

absl::StatusOr<bool> RankRunner::Keep(const StepPlan& plan, std::span<const Place> places) {
  // The phases of two steps cannot be told apart.
  if (phases_ != nullptr || !model_.passes_ahead()) return false;
  std::vector<core::SampleRow> rows;
  for (size_t s = 0; s < plan.sequences.size(); ++s) {
    const SequenceWork& work = plan.sequences[s];
    // Logits that somebody wants are read once the step is over.
    if (work.gather || !work.drafts.empty() || work.logit_rows() > work.sample_rows()) return false;
    if (!work.sample) continue;
    const SlotState& state = slots_.slot(work.slot);
    rows.push_back({.row = places[s].first_row,
                    .params = &state.sampling,
                    .history = {},  // may not be known yet
                    .token_index = state.next_token_index,
                    .candidates = state.candidates_per_rank,
                    .scored = work.score != ScoredTokens::kNone});
  }
  if (!model_.CanKeep(rows, collective_)) return false;
  TANDEM_RETURN_IF_ERROR(model_.Keep(rows, collective_, VocabularyPhase(plan)));
  int32_t row = 0;
  for (const SequenceWork& work : plan.sequences) {
    if (work.sample) slots_.slot(work.slot).AddPending(row++);
  }
  return true;
}

absl::StatusOr<StepResult> RankRunner::Finish(const StepPlan& plan, const Digest& plan_hash) {
  const Begun begun = std::move(begun_.front());
  begun_.pop_front();
  StepResult result;
  result.sequences.resize(plan.sequences.size());
  if (!plan.sequences.empty()) {
    const core::PhaseScope sampling(phases_, core::Phase::kSampling);
    if (begun.kept) {
      TANDEM_RETURN_IF_ERROR(TakeKept(plan, begun, result));
    } else {
      TANDEM_RETURN_IF_ERROR(GatherLogits(plan, begun.places, result));
      TANDEM_RETURN_IF_ERROR(Sample(plan, begun, result));
    }
  }
  AddToDigest(plan_hash, result);
  result.reduce_nanoseconds = collective_.nanoseconds();
  return result;
}

absl::Status RankRunner::TakeKept(const StepPlan& plan, const Begun& begun, StepResult& result) {
  TANDEM_RETURN_IF_ERROR(model_.AwaitKept([] { return false; }));
  TANDEM_ASSIGN_OR_RETURN(const core::KeptResults kept, model_.TakeKept());
  std::vector<core::SampledToken> sampled;
  for (const int32_t token : kept.sampled) {
    sampled.push_back(token < 0 ? std::nullopt : core::SampledToken(token));
  }
  TakeOutcome(plan, begun, sampled, kept.failures, result);
  return absl::OkStatus();
}

absl::Status RankRunner::Settle() {
  if (begun_.empty() || collective_.size() == 1) return absl::OkStatus();
  return model_.AwaitKept([] { return false; });
}

absl::Status RankRunner::AwaitFilled(std::span<const PoolBlock> blocks) {
  if (traffic_.Fills(blocks)) TANDEM_RETURN_IF_ERROR(Settle());
  return traffic_.AwaitFilled(blocks);
}

absl::Status RankRunner::MovePages(const StepPlan& plan) {
  const bool of_records = !plan.saves.empty() || plan.flush || !plan.fetches.empty();
  if (of_records && records_ == nullptr) {
    return Internal("step plan {}: it saves or fetches records, but this rank has no tier",
                    plan.step);
  }
  if (records_ != nullptr) {
    TANDEM_RETURN_IF_ERROR(AwaitFilled(BlocksOf(plan.saves)));
    if (records_->SavesMayWait(plan.saves.size())) TANDEM_RETURN_IF_ERROR(Settle());
    TANDEM_RETURN_IF_ERROR(records_->Save(plan));
  }
  for (std::span<const PageMove> moves(plan.moves); !moves.empty();) {
    TANDEM_ASSIGN_OR_RETURN(const size_t made, Move(moves));
    moves = moves.subspan(made);
  }
  if (records_ != nullptr) records_->Fetch(plan);
  return FollowPages(plan);
}

absl::StatusOr<size_t> RankRunner::Move(std::span<const PageMove> moves) {
  const PageMove& first = moves.front();
  if (const auto* copy = std::get_if<BlockCopy>(&first)) {
    TANDEM_RETURN_IF_ERROR(Copy(*copy));
    return 1;
  }
  if (std::holds_alternative<BlockLoad>(first)) {
    if (records_ == nullptr) {
      return Internal("step plan: it loads records, but this rank has no tier");
    }
    size_t count = 1;
    while (count < moves.size() && std::holds_alternative<BlockLoad>(moves[count])) ++count;
    TANDEM_RETURN_IF_ERROR(records_->Load(
        moves.first(count), [this](int64_t tasks, absl::FunctionRef<void(int64_t)> body) {
          model_.ParallelFor(tasks, body);
        }));
    return count;
  }
  if (spilled_ == nullptr) {
    return Internal("step plan: it moves pages to or from a host tier, but this rank has none");
  }
  if (const auto* spill = std::get_if<PageSpill>(&first)) {
    TANDEM_RETURN_IF_ERROR(AwaitFilled(BlocksOf(spill->blocks)));
    TANDEM_RETURN_IF_ERROR(spilled_->Spill(*spill));
    return 1;
  }
  const auto& back = std::get<PageReturn>(first);
  TANDEM_RETURN_IF_ERROR(AwaitFilled(BlocksOf(back.blocks)));
  TANDEM_RETURN_IF_ERROR(spilled_->Return(back));
  return 1;
}

absl::Status RankRunner::Copy(const BlockCopy& copy) {
  const auto group = static_cast<size_t>(copy.group);
  const PoolBlock blocks[] = {{group, copy.from}, {group, copy.to}};
  TANDEM_RETURN_IF_ERROR(AwaitFilled(blocks));
  TANDEM_RETURN_IF_ERROR(traffic_.FollowLeaving(std::span(blocks).last(1)));
  TANDEM_RETURN_IF_ERROR(Settle());
  return pool_.CopyBlock(group, copy.from, copy.to);
}

absl::Status RankRunner::FollowPages(const StepPlan& plan) {
  if (traffic_.idle()) return absl::OkStatus();
  std::vector<PoolBlock> seen;
  std::vector<PoolBlock> written;
  for (const SequenceWork& work : plan.sequences) {
    const auto& tables = slots_.slot(work.slot).tables;
    const auto first = static_cast<size_t>(work.start_position / core::kPageTokens);
    for (size_t g = 0; g < tables.size(); ++g) {
      for (size_t i = 0; i < tables[g].size(); ++i) {
        if (tables[g][i] == core::kNoBlock) continue;
        seen.push_back({g, tables[g][i]});
        if (i >= first) written.push_back(seen.back());
      }
    }
  }
  TANDEM_RETURN_IF_ERROR(AwaitFilled(seen));
  return traffic_.FollowLeaving(written);
}

absl::StatusOr<std::vector<RankRunner::Place>> RankRunner::Forward(const StepPlan& plan) {
  std::vector<Place> places;
  std::vector<int32_t> tokens;
  std::vector<int32_t> logit_tokens;
  std::vector<core::SequenceSlice> slices;
  for (const SequenceWork& work : plan.sequences) {
    const SlotState& state = slots_.slot(work.slot);
    core::SequenceSlice slice{.first_token = static_cast<int32_t>(tokens.size()),
                              .tokens = work.token_count(),
                              .start_position = work.start_position,
                              .block_tables = {}};
    places.push_back({.first_row = static_cast<int64_t>(logit_tokens.size()),
                      .first_token = slice.first_token,
                      .opening = state.opening});
    for (const auto& table : state.tables) slice.block_tables.emplace_back(table);
    if (work.start_position == std::ssize(state.history)) {
      tokens.push_back(core::KeptToken(state.pending_row));
    } else {
      const auto first = state.history.begin() + work.start_position;
      tokens.insert(tokens.end(), first, first + work.known_count());
    }
    tokens.insert(tokens.end(), work.drafts.begin(), work.drafts.end());
    for (int64_t i = work.logit_rows(); i > 0; --i) {
      logit_tokens.push_back(static_cast<int32_t>(static_cast<int64_t>(tokens.size()) - i));
    }
    slices.push_back(std::move(slice));
  }
  TANDEM_RETURN_IF_ERROR(model_.Forward({.step = plan.step,
                                         .tokens = tokens,
                                         .sequences = slices,
                                         .logit_tokens = logit_tokens,
                                         .phases = phases_},
                                        pool_.view(), collective_));
  return places;
}

absl::Status RankRunner::GatherLogits(const StepPlan& plan, std::span<const Place> places,
                                      StepResult& result) {
  int64_t rows = 0;
  for (const SequenceWork& work : plan.sequences) {
    if (work.gather) rows += work.logit_rows();
  }
  if (rows == 0) return absl::OkStatus();
  std::vector<float> mine(static_cast<size_t>(rows * largest_shard_), 0.0F);
  float* to = mine.data();
  for (size_t s = 0; s < plan.sequences.size(); ++s) {
    if (!plan.sequences[s].gather) continue;
    const int64_t count = plan.sequences[s].logit_rows();
    TANDEM_RETURN_IF_ERROR(model_.ReadLogits({places[s].first_row, count}, to, largest_shard_));
    to += count * largest_shard_;
  }
  std::vector<float> all(mine.size() * static_cast<size_t>(collective_.size()));
  TANDEM_RETURN_IF_ERROR(collective_.AllGather(std::as_bytes(std::span(mine)),
                                               std::as_writable_bytes(std::span(all)),
                                               VocabularyPhase(plan)));
  if (collective_.rank() != 0) return absl::OkStatus();
  const int64_t vocab = model_.config().vocab;
  result.logits.resize(static_cast<size_t>(rows * vocab));
  for (size_t rank = 0; rank < vocab_shards_.size(); ++rank) {
    const core::Range& shard = vocab_shards_[rank];
    const auto part = all.begin() + static_cast<int64_t>(rank * mine.size());
    for (int64_t row = 0; row < rows; ++row) {
      std::copy_n(part + row * largest_shard_, shard.count,
                  result.logits.begin() + row * vocab + shard.begin);
    }
  }
  return absl::OkStatus();
}

absl::Status RankRunner::Sample(const StepPlan& plan, const Begun& begun, StepResult& result) {
  const std::span<const Place> places(begun.places);
  // What is sampled after a guess counts only if the guess was right: then it is history.
  std::vector<core::SampleRow> rows;
  for (size_t s = 0; s < plan.sequences.size(); ++s) {
    const SequenceWork& work = plan.sequences[s];
    if (!work.sample) continue;
    SlotState& state = slots_.slot(work.slot);
    const size_t known = state.history.size();
    state.history.insert(state.history.end(), work.drafts.begin(), work.drafts.end());
    const int64_t first = places[s].first_row + work.logit_rows() - work.sample_rows();
    for (int32_t i = 0; i < work.sample_rows(); ++i) {
      const auto index = static_cast<size_t>(i);
      rows.push_back({.row = first + i,
                      .params = &state.sampling,
                      .history = std::span(state.history).first(known + index),
                      .token_index = state.next_token_index + index,
                      .candidates = state.candidates_per_rank,
                      .scored = work.score != ScoredTokens::kNone});
    }
  }
  std::vector<core::SampledToken> sampled(rows.size());
  TANDEM_RETURN_IF_ERROR(model_.Sample(rows, collective_, VocabularyPhase(plan), sampled));
  TANDEM_RETURN_IF_ERROR(Score(plan, places, sampled, result));
  TANDEM_ASSIGN_OR_RETURN(const std::span<const uint8_t> failed, model_.TokenFailures());
  TakeOutcome(plan, begun, sampled, failed, result);
  return absl::OkStatus();
}

void RankRunner::TakeOutcome(const StepPlan& plan, const Begun& begun,
                             std::span<const core::SampledToken> sampled,
                             std::span<const uint8_t> failed, StepResult& result) {
  for (size_t s = 0; s < plan.sequences.size(); ++s) {
    const SequenceWork& work = plan.sequences[s];
    const Place& place = begun.places[s];
    const auto of_work = failed.subspan(static_cast<size_t>(place.first_token),
                                        static_cast<size_t>(work.token_count()));
    // A guess that fails matters only if it was right: TakeSamples sees to those.
    const auto known = of_work.first(static_cast<size_t>(work.known_count()));
    if (const auto first = std::find(known.begin(), known.end(), 1); first != known.end()) {
      result.sequences[s].failure =
          NumericFailure{.position = work.start_position + (first - known.begin())};
    }
    if (!work.sample) continue;
    const auto count = static_cast<size_t>(work.sample_rows());
    // The next step may have closed the slot, and given it to another sequence.
    SlotState& state = slots_.slot(work.slot);
    SlotState* const own = state.opening == place.opening ? &state : nullptr;
    if (own != nullptr && begun.kept) --own->pending;
    TakeSamples(work, own, sampled.first(count), of_work, result.sequences[s]);
    sampled = sampled.subspan(count);
  }
}

absl::Status RankRunner::Score(const StepPlan& plan, std::span<const Place> places,
                               std::span<const core::SampledToken> sampled, StepResult& result) {
  std::vector<core::ScoreRow> rows;
  for (size_t s = 0; s < plan.sequences.size(); ++s) {
    const SequenceWork& work = plan.sequences[s];
    const auto of_work = sampled.first(static_cast<size_t>(work.sample_rows()));
    sampled = sampled.subspan(of_work.size());
    const auto count = static_cast<size_t>(work.score_rows());
    if (count == 0) continue;
    // What follows each token: the next given one, or what is sampled.
    std::vector<int32_t> next;
    if (!work.tokens.empty()) next.assign(work.tokens.begin() + 1, work.tokens.end());
    if (!work.sample) next.push_back(work.next_token);
    for (const core::SampledToken& token : of_work) next.push_back(token.value_or(0));
    const int64_t first = places[s].first_row + work.logit_rows() - work.score_rows();
    for (size_t i = 0; i < count; ++i) {
      rows.push_back({.row = first + static_cast<int64_t>(i),
                      .token = next[next.size() - count + i],
                      .top = work.top,
                      .largest_shard = largest_shard_});
    }
  }
  result.scores.resize(rows.size());
  return model_.Score(rows, collective_, VocabularyPhase(plan), result.scores);
}

/// state: of the slot, or null: it is closed; sampled: [work.sample_rows()]; failed:
/// [work.token_count()].
void RankRunner::TakeSamples(const SequenceWork& work, SlotState* state,
                             std::span<const core::SampledToken> sampled,
                             std::span<const uint8_t> failed, SequenceResult& result) {
  SlotState closed;
  if (state == nullptr) state = &closed;
  if (!work.drafts.empty()) state->history.resize(state->history.size() - work.drafts.size());
  for (size_t i = 0; i < sampled.size(); ++i) {
    const auto in_work = static_cast<size_t>(work.known_count() - 1) + i;
    const int64_t position = work.start_position + static_cast<int64_t>(in_work);
    if (i > 0 && failed[in_work] != 0) result.failure = NumericFailure{.position = position};
    ++state->next_token_index;
    if (!sampled[i] && !result.failure) {
      result.failure = NumericFailure{.position = position, .in_logits = true};
    }
    // A plan that left before this failure was known still runs the slot, on token 0.
    state->history.push_back(sampled[i].value_or(0));
    if (result.failure) break;
    result.tokens.push_back(*sampled[i]);
    if (i >= work.drafts.size() || work.drafts[i] != *sampled[i]) break;
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
