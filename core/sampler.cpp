#include "core/sampler.h"

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstring>

#include "core/lanes.h"
#include "core/lanes_math.h"
#include "core/philox.h"

namespace tandem::core {
namespace {

constexpr int32_t kBlockRows = 1024;

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

/// A candidate whose logit has become its weight.
struct Weighted {
  float weight;
  int32_t token;
};

/// weight = exp((logit - best) / temperature).
std::vector<Weighted> Weigh(std::span<const Candidate> candidates, float best, float temperature) {
  static_assert(sizeof(Candidate) == 2 * sizeof(float) && offsetof(Candidate, token) == 4);
  static_assert(sizeof(Weighted) == 2 * sizeof(float) && offsetof(Weighted, token) == 4);
  std::vector<Weighted> weighted(candidates.size());
  for (size_t i = 0; i < candidates.size(); i += kLanes) {
    // Tokens only pass through: moved as floats, their bits stay.
    const size_t count = std::min<size_t>(kLanes, candidates.size() - i);
    float pairs[2 * kLanes] = {};
    std::memcpy(pairs, &candidates[i], count * sizeof(Candidate));
    Avx2Lanes logits, tokens;
    Avx2Lanes::LoadPairs(pairs, logits, tokens);
    const Avx2Lanes x = (logits - Avx2Lanes::Set(best)) / Avx2Lanes::Set(temperature);
    Avx2Lanes::StorePairs(pairs, LanesExp(x), tokens);
    std::memcpy(&weighted[i], pairs, count * sizeof(Weighted));
  }
  return weighted;
}

/// Sums by blocks of vocabulary rows. weighted: ascending by token.
struct BlockSum {
  size_t begin = 0;  // into the weighted tokens
  size_t end = 0;
  double sum = 0.0;
};

std::vector<BlockSum> SumBlocks(std::span<const Weighted> weighted) {
  std::vector<BlockSum> blocks;
  for (size_t i = 0; i < weighted.size();) {
    BlockSum block = {i, i, 0.0};
    const int32_t next = (weighted[i].token / kBlockRows + 1) * kBlockRows;
    for (; i < weighted.size() && weighted[i].token < next; ++i) block.sum += weighted[i].weight;
    block.end = i;
    blocks.push_back(block);
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
void KeepTopP(std::vector<Candidate>& candidates, float share, float best, float temperature) {
  const double wanted =
      static_cast<double>(share) * Total(SumBlocks(Weigh(candidates, best, temperature)));
  constexpr float kDeepest = 128.0F;  // where exp has long been zero
  double reached = 0.0;
  auto first = candidates.begin();
  for (float depth = 1.0F; first != candidates.end(); depth *= 2.0F) {
    const float floor = best - depth * temperature;
    const auto last =
        depth > kDeepest ? candidates.end()
                         : std::partition(first, candidates.end(),
                                          [floor](const Candidate& c) { return c.logit >= floor; });
    std::sort(first, last, Better);
    for (const Weighted& token : Weigh({first, last}, best, temperature)) {
      reached += token.weight;
      ++first;
      if (reached >= wanted) {
        candidates.erase(first, candidates.end());
        return;
      }
    }
  }
}

/// weighted: ascending by token, not empty, no weight zero.
int32_t Draw(std::span<const Weighted> weighted, double uniform) {
  const std::vector<BlockSum> blocks = SumBlocks(weighted);
  const double target = uniform * Total(blocks);
  double before = 0.0;
  for (const BlockSum& block : blocks) {
    // The running sum of a block ends at exactly block.sum, so a token is found where this holds.
    const double within = target - before;
    if (within < block.sum) {
      double running = 0.0;
      for (size_t i = block.begin; i < block.end; ++i) {
        running += weighted[i].weight;
        if (within < running) return weighted[i].token;
      }
    }
    before += block.sum;
  }
  return weighted.back().token;  // rounding pushed the target to the very end
}

}  // namespace

int CandidatesPerRank(const SamplingParams& params, int largest_vocab_shard) {
  if (params.temperature == 0.0F) return std::min(1, largest_vocab_shard);
  return params.top_k > 0 ? std::min(params.top_k, largest_vocab_shard) : largest_vocab_shard;
}

void ApplyPenalties(const SamplingParams& params, std::span<const int32_t> history,
                    int64_t first_row, std::span<float> logits) {
  const auto rows = static_cast<int64_t>(logits.size());
  for (const auto& [token, bias] : params.logit_bias) {
    const int64_t row = token - first_row;
    if (row >= 0 && row < rows) logits[static_cast<size_t>(row)] += bias;
  }
  if (params.repetition_penalty == 1.0F) return;
  std::vector<bool> seen(logits.size());
  for (const int32_t token : history) {
    const int64_t row = token - first_row;
    if (row < 0 || row >= rows || seen[static_cast<size_t>(row)]) continue;
    seen[static_cast<size_t>(row)] = true;
    float& logit = logits[static_cast<size_t>(row)];
    logit = logit > 0.0F ? logit / params.repetition_penalty : logit * params.repetition_penalty;
  }
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
  for (const Candidate& candidate : candidates) {
    if (candidate.token == kFailedToken) return std::nullopt;
    if (candidate.token == kPaddingToken) continue;
    if (real == 0 || Better(candidate, best)) best = candidate;
    candidates[real++] = candidate;
  }
  if (real == 0) return std::nullopt;
  candidates.resize(real);
  if (params.temperature == 0.0F) return best.token;

  const auto top_k = static_cast<size_t>(std::max(params.top_k, 0));
  if (top_k > 0 && top_k < candidates.size()) {
    std::nth_element(candidates.begin(), candidates.begin() + static_cast<ptrdiff_t>(top_k),
                     candidates.end(), Better);
    candidates.resize(top_k);
  }
  const auto by_token = [](const Candidate& a, const Candidate& b) { return a.token < b.token; };
  const auto sort_by_token = [&] {
    if (!std::is_sorted(candidates.begin(), candidates.end(), by_token)) {
      std::sort(candidates.begin(), candidates.end(), by_token);
    }
  };
  sort_by_token();
  if (params.top_p < 1.0F) {
    KeepTopP(candidates, params.top_p, best.logit, params.temperature);
    sort_by_token();
  }
  std::vector<Weighted> weighted = Weigh(candidates, best.logit, params.temperature);
  std::erase_if(weighted, [&](const Weighted& token) {
    return token.weight < params.min_p || token.weight == 0.0F;
  });
  return Draw(weighted, Uniform(params, token_index));
}

}  // namespace tandem::core
