#include "core/sampling/sampler.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstring>

#include "core/base/philox.h"
#include "core/cpu/simd/lanes.h"
#include "core/cpu/simd/lanes_math.h"

namespace tandem::core {
namespace {

bool Better(const Candidate& a, const Candidate& b) {
  return a.logit != b.logit ? a.logit > b.logit : a.token < b.token;
}

bool AllFinite(std::span<const float> values) {
  constexpr uint32_t kExponent = 0x7f800000;
  uint32_t bad = 0;
  for (const float value : values) {
    bad |= static_cast<uint32_t>((std::bit_cast<uint32_t>(value) & kExponent) == kExponent);
  }
  return bad == 0;
}

/// A number in [0, 1), a multiple of 2^-53.
double Uniform(const SamplingParams& params, uint64_t token_index) {
  const auto low = [](uint64_t x) { return static_cast<uint32_t>(x); };
  const auto high = [](uint64_t x) { return static_cast<uint32_t>(x >> 32); };
  const std::array<uint32_t, 4> random =
      Philox4x32({low(token_index), high(token_index), params.sample_number, 0},
                 {low(params.seed), high(params.seed)});
  const uint64_t bits = uint64_t{random[0]} << 32 | random[1];
  return static_cast<double>(bits >> 11) * 0x1p-53;
}

/// What turns logits into weights: exp((logit - best) / temperature), or 0 where that is less than
/// `smallest`.
struct Softmax {
  float best;
  float temperature;
  float smallest;

  /// Calls visit(candidate, weight) for each in order, until it returns true; says whether it did.
  template <typename Visit>
  bool ForEach(std::span<const Candidate> candidates, Visit visit) const {
    static_assert(sizeof(Candidate) == 2 * sizeof(float) && offsetof(Candidate, logit) == 0);
    for (size_t i = 0; i < candidates.size(); i += kLanes) {
      const std::span<const Candidate> some =
          candidates.subspan(i, std::min<size_t>(kLanes, candidates.size() - i));
      float pairs[2 * kLanes] = {};
      std::memcpy(pairs, some.data(), some.size_bytes());
      Avx2Lanes logits, tokens;
      Avx2Lanes::LoadPairs(pairs, logits, tokens);
      const Avx2Lanes w = LanesExp((logits - Avx2Lanes::Set(best)) / Avx2Lanes::Set(temperature));
      float weights[kLanes];
      Avx2Lanes::SelectLess(w, Avx2Lanes::Set(smallest), Avx2Lanes::Set(0.0F), w).Store(weights);
      for (size_t j = 0; j < some.size(); ++j) {
        if (visit(some[j], weights[j])) return true;
      }
    }
    return false;
  }
};

/// One block of vocabulary rows.
struct BlockSum {
  std::span<const Candidate> candidates;
  double sum = 0.0;
};

/// candidates: ascending by token.
std::vector<BlockSum> SumBlocks(std::span<const Candidate> candidates, const Softmax& softmax) {
  std::vector<BlockSum> blocks;
  while (!candidates.empty()) {
    const int32_t number = candidates.front().token / kSumRows;
    const auto end = std::partition_point(
        candidates.begin(), candidates.end(),
        [number](const Candidate& candidate) { return candidate.token / kSumRows == number; });
    const auto count = static_cast<size_t>(end - candidates.begin());
    double sum = 0.0;
    softmax.ForEach(candidates.first(count), [&sum](const Candidate&, float weight) {
      sum += weight;
      return false;
    });
    blocks.push_back({candidates.first(count), sum});
    candidates = candidates.subspan(count);
  }
  return blocks;
}

double Total(std::span<const BlockSum> blocks) {
  double total = 0.0;
  for (const BlockSum& block : blocks) total += block.sum;
  return total;
}

/// Keeps the shortest run of best candidates whose weights reach `share` of the sum of all.
/// candidates: ascending by token. Sorts no more than needed: slices of falling logits, each twice
/// as deep as the one before.
void KeepTopP(std::vector<Candidate>& candidates, float share, const Softmax& softmax) {
  const double wanted = static_cast<double>(share) * Total(SumBlocks(candidates, softmax));
  constexpr float kDeepest = 128.0F;  // where exp has long been zero
  double reached = 0.0;
  size_t kept = 0;
  for (float depth = 1.0F; kept < candidates.size(); depth *= 2.0F) {
    const float floor = softmax.best - depth * softmax.temperature;
    const auto first = candidates.begin() + static_cast<ptrdiff_t>(kept);
    const auto last =
        depth > kDeepest ? candidates.end()
                         : std::partition(first, candidates.end(),
                                          [floor](const Candidate& c) { return c.logit >= floor; });
    std::sort(first, last, Better);
    if (softmax.ForEach({first, last}, [&](const Candidate&, float weight) {
          reached += weight;
          ++kept;
          return reached >= wanted;
        })) {
      break;
    }
  }
  candidates.resize(kept);
}

/// candidates: ascending by token, at least one of them with a weight.
int32_t Draw(std::span<const Candidate> candidates, const Softmax& softmax, double uniform) {
  const std::vector<BlockSum> blocks = SumBlocks(candidates, softmax);
  const double target = uniform * Total(blocks);
  // Where rounding pushes the target past every block, or past every token of one, the last that
  // has a weight is drawn.
  const BlockSum* block = nullptr;
  double within = 0.0, before = 0.0;
  for (const BlockSum& candidate : blocks) {
    if (candidate.sum == 0.0) continue;
    block = &candidate;
    within = target - before;
    if (within < candidate.sum) break;
    before += candidate.sum;
  }
  int32_t drawn = kPaddingToken;
  double running = 0.0;
  softmax.ForEach(block->candidates, [&](const Candidate& candidate, float weight) {
    running += weight;
    if (weight > 0.0F) drawn = candidate.token;
    return weight > 0.0F && within < running;
  });
  return drawn;
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
  if (params.repetition_penalty != 1.0F) {
    std::vector<bool> seen(logits.size());
    for (const int32_t token : history) {
      const auto row = row_of(token);
      if (!row || seen[*row]) continue;
      seen[*row] = true;
      float& logit = logits[*row];
      logit = logit > 0.0F ? logit / params.repetition_penalty : logit * params.repetition_penalty;
    }
  }
  if (static_cast<int64_t>(token_index) >= params.min_tokens) return;
  for (const int32_t token : params.end_tokens) {
    const auto row = row_of(token);
    if (row && std::isfinite(logits[*row])) logits[*row] = kWithheldLogit;
  }
}

bool ChangesLogits(const SamplingParams& params) {
  return !params.logit_bias.empty() || params.repetition_penalty != 1.0F ||
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

  const auto by_token = [](const Candidate& a, const Candidate& b) { return a.token < b.token; };
  const auto top_k = static_cast<size_t>(std::max(params.top_k, 0));
  if (top_k > 0 && top_k < candidates.size()) {
    std::nth_element(candidates.begin(), candidates.begin() + static_cast<ptrdiff_t>(top_k),
                     candidates.end(), Better);
    candidates.resize(top_k);
    sorted = false;
  }
  if (!sorted) std::sort(candidates.begin(), candidates.end(), by_token);
  if (params.top_p < 1.0F) {
    KeepTopP(candidates, params.top_p, {best.logit, params.temperature, 0.0F});
    std::sort(candidates.begin(), candidates.end(), by_token);
  }
  return Draw(candidates, {best.logit, params.temperature, params.min_p},
              Uniform(params, token_index));
}

absl::Status SampleRows(std::span<const SampleRow> rows, const HostLogits& logits,
                        Collective& collective, const StepPhase& phase, ParallelTasks parallel_for,
                        std::span<SampledToken> out) {
  std::vector<size_t> first(rows.size() + 1);  // candidate of each row, and of all
  for (size_t i = 0; i < rows.size(); ++i) {
    first[i + 1] = first[i] + static_cast<size_t>(rows[i].candidates);
  }
  if (first.back() == 0) return absl::OkStatus();
  std::vector<Candidate> mine(first.back());
  const auto row_of = [&](size_t i) {
    return std::span(logits.data + rows[i].row * logits.vocab_rows.count,
                     static_cast<size_t>(logits.vocab_rows.count));
  };
  parallel_for(static_cast<int64_t>(rows.size()), [&](int64_t task) {
    const auto i = static_cast<size_t>(task);
    ApplyPenalties(*rows[i].params, rows[i].token_index, rows[i].history, logits.vocab_rows.begin,
                   row_of(i));
    SelectCandidates(row_of(i), logits.vocab_rows.begin,
                     std::span(mine).subspan(first[i], first[i + 1] - first[i]));
  });
  std::vector<Candidate> all(mine.size() * static_cast<size_t>(collective.size()));
  TANDEM_RETURN_IF_ERROR(collective.AllGather(std::as_bytes(std::span(mine)),
                                              std::as_writable_bytes(std::span(all)), phase));
  parallel_for(static_cast<int64_t>(rows.size()), [&](int64_t task) {
    const auto i = static_cast<size_t>(task);
    std::vector<Candidate> candidates;
    for (size_t of_rank = 0; of_rank < all.size(); of_rank += mine.size()) {
      const auto begin = all.begin() + static_cast<ptrdiff_t>(of_rank + first[i]);
      candidates.insert(candidates.end(), begin, begin + rows[i].candidates);
    }
    out[i] = SampleToken(*rows[i].params, rows[i].token_index, std::move(candidates));
  });
  return absl::OkStatus();
}

}  // namespace tandem::core
