#include "core/sampling/sampler.h"

#include <algorithm>
#include <bit>

#include "core/cpu/simd/lanes.h"
#include "core/sampling/token_choice.h"

namespace tandem::core {
namespace {

bool AllFinite(std::span<const float> values) {
  constexpr uint32_t kExponent = 0x7f800000;
  uint32_t bad = 0;
  for (const float value : values) {
    bad |= static_cast<uint32_t>((std::bit_cast<uint32_t>(value) & kExponent) == kExponent);
  }
  return bad == 0;
}

}  // namespace

int CandidatesPerRank(const SamplingParams& params, int largest_vocab_shard) {
  if (params.temperature == 0.0F) return std::min(1, largest_vocab_shard);
  return params.top_k > 0 ? std::min(params.top_k, largest_vocab_shard) : largest_vocab_shard;
}

void ApplyPenalties(const SamplingParams& params, uint64_t token_index,
                    std::span<const int32_t> history, int64_t first_row, std::span<float> logits) {
  const auto row_of = [&](int32_t token) -> std::optional<size_t> {
    const int64_t row = token - first_row;
    if (row < 0 || row >= static_cast<int64_t>(logits.size())) return std::nullopt;
    return static_cast<size_t>(row);
  };
  for (const auto& [token, bias] : params.logit_bias) {
    if (const auto row = row_of(token)) logits[*row] += bias;
  }
  const Range rows = {first_row, static_cast<int64_t>(logits.size())};
  if (params.repetition_penalty != 1.0F) {
    ForEachSeenRow(history, rows, [&](int64_t row) {
      float& logit = logits[static_cast<size_t>(row)];
      logit = PenalizedLogit(logit, params.repetition_penalty);
    });
  }
  ForEachAnsweredRow(params, token_index, history, rows, [&](int64_t row, float penalty) {
    logits[static_cast<size_t>(row)] -= penalty;
  });
  if (!WithholdsEndTokens(params, token_index)) return;
  for (const int32_t token : params.end_tokens) {
    if (const auto row = row_of(token)) logits[*row] = WithheldLogit(logits[*row]);
  }
}

bool WithholdsEndTokens(const SamplingParams& params, uint64_t token_index) {
  return static_cast<int64_t>(token_index) < params.min_tokens;
}

bool ChangesLogits(const SamplingParams& params) {
  return !params.logit_bias.empty() || params.repetition_penalty != 1.0F ||
         params.presence_penalty != 0.0F || params.frequency_penalty != 0.0F ||
         !params.end_tokens.empty();
}

void SelectCandidates(std::span<const float> logits, int64_t first_row, std::span<Candidate> out) {
  std::fill(out.begin(), out.end(), Candidate{});
  if (out.empty()) return;
  if (!AllFinite(logits)) {
    out[0].token = kFailedToken;
    return;
  }
  const auto candidate = [&](size_t row) {
    return Candidate{logits[row], static_cast<int32_t>(first_row + static_cast<int64_t>(row))};
  };
  const size_t taken = std::min(out.size(), logits.size());
  for (size_t row = 0; row < taken; ++row) out[row] = candidate(row);
  if (taken == logits.size()) return;

  // A heap whose top is the worst kept: most rows lose against it at the first look.
  const std::span<Candidate> kept = out.first(taken);
  std::make_heap(kept.begin(), kept.end(), Better);
  for (size_t row = taken; row < logits.size();) {
    // A later row is a higher token, which loses ties.
    if (row + kLanes <= logits.size() &&
        !(Avx2Lanes::FoldMax(Avx2Lanes::Load(&logits[row])) > kept.front().logit)) {
      row += kLanes;
      continue;
    }
    const size_t end = std::min(row + kLanes, logits.size());
    for (; row < end; ++row) {
      if (!(logits[row] > kept.front().logit)) continue;
      std::pop_heap(kept.begin(), kept.end(), Better);
      kept.back() = candidate(row);
      std::push_heap(kept.begin(), kept.end(), Better);
    }
  }
}

std::optional<int32_t> SampleToken(const SamplingParams& params, uint64_t token_index,
                                   std::vector<Candidate> candidates) {
  Candidate best;
  size_t real = 0;
  bool sorted = true;
  for (const Candidate& candidate : candidates) {
    if (candidate.token == kFailedToken) return std::nullopt;
    if (candidate.token == kPaddingToken) continue;
    if (real == 0 || Better(candidate, best)) best = candidate;
    sorted = sorted && (real == 0 || candidates[real - 1].token < candidate.token);
    candidates[real++] = candidate;
  }
  if (real == 0) return std::nullopt;
  if (params.temperature == 0.0F) return best.token;
  candidates.resize(real);

  const auto top_k = static_cast<size_t>(std::max(params.top_k, 0));
  if (top_k > 0 && top_k < candidates.size()) {
    std::nth_element(candidates.begin(), candidates.begin() + static_cast<ptrdiff_t>(top_k),
                     candidates.end(), Better);
    candidates.resize(top_k);
    sorted = false;
  }
  if (!sorted) SortByToken(candidates);
  if (params.top_p < 1.0F) {
    const Softmax softmax = {best.logit, params.temperature, 0.0F};
    const double total = TotalOf(SumsOf(SumBlocks(candidates, softmax)));
    KeepBest(candidates, static_cast<double>(params.top_p) * total, softmax);
    SortByToken(candidates);
  }
  return DrawToken(candidates, {best.logit, params.temperature, params.min_p},
                   Uniform(params, token_index));
}

}  // namespace tandem::core
