#include "core/sampler.h"

#include <algorithm>
#include <bit>
#include <cstddef>

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

/// Heavier first, ties by token: the order of Better, since weights grow with logits, except where
/// different logits round to one weight. That is why top_p sorts by logit.
std::vector<Weighted> Weigh(std::span<const Candidate> candidates, float best, float temperature) {
  std::vector<Weighted> weighted(candidates.size());
  for (size_t i = 0; i < candidates.size(); i += kLanes) {
    const size_t count = std::min<size_t>(kLanes, candidates.size() - i);
    float x[kLanes] = {};
    for (size_t j = 0; j < count; ++j) x[j] = (candidates[i + j].logit - best) / temperature;
    LanesExp(Avx2Lanes::Load(x)).Store(x);
    for (size_t j = 0; j < count; ++j) weighted[i + j] = {x[j], candidates[i + j].token};
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
    const int32_t number = weighted[i].token / kBlockRows;
    for (; i < weighted.size() && weighted[i].token / kBlockRows == number; ++i) {
      block.sum += weighted[i].weight;
    }
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
/// Sorts only as far as needed.
void KeepTopP(std::vector<Candidate>& candidates, float share, float best, float temperature) {
  const double wanted =
      static_cast<double>(share) * Total(SumBlocks(Weigh(candidates, best, temperature)));
  double reached = 0.0;
  size_t sorted = 0;
  for (size_t run = 128; sorted < candidates.size(); run *= 4) {
    const size_t end = std::min(candidates.size(), sorted + run);
    const auto first = candidates.begin() + static_cast<ptrdiff_t>(sorted);
    const auto last = candidates.begin() + static_cast<ptrdiff_t>(end);
    if (last != candidates.end()) std::nth_element(first, last, candidates.end(), Better);
    std::sort(first, last, Better);
    const std::vector<Weighted> weighted = Weigh({first, last}, best, temperature);
    for (size_t i = 0; i < weighted.size(); ++i) {
      reached += weighted[i].weight;
      if (reached >= wanted) {
        candidates.resize(sorted + i + 1);
        return;
      }
    }
    sorted = end;
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
  for (size_t row = taken; row < logits.size(); ++row) {
    // A later row is a higher token, which loses ties.
    if (!(logits[row] > kept.front().logit)) continue;
    std::pop_heap(kept.begin(), kept.end(), Better);
    kept.back() = candidate(row);
    std::push_heap(kept.begin(), kept.end(), Better);
  }
}

std::optional<int32_t> SampleToken(const SamplingParams& params, uint64_t token_index,
                                   std::vector<Candidate> candidates) {
  const auto has_token = [](int32_t token) {
    return [token](const Candidate& candidate) { return candidate.token == token; };
  };
  if (std::any_of(candidates.begin(), candidates.end(), has_token(kFailedToken))) {
    return std::nullopt;
  }
  std::erase_if(candidates, has_token(kPaddingToken));
  if (candidates.empty()) return std::nullopt;

  const Candidate best = *std::min_element(candidates.begin(), candidates.end(), Better);
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
