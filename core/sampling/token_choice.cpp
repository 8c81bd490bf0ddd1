#include "core/sampling/token_choice.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstring>
#include <utility>

#include "core/base/philox.h"
#include "core/cpu/simd/lanes.h"

namespace tandem::core {
namespace {

/// Calls visit(candidate, weight) for each in order, until it returns true; says whether it did.
template <typename Visit>
bool ForEachWeight(std::span<const Candidate> candidates, const Softmax& softmax, Visit visit) {
  static_assert(sizeof(Candidate) == 2 * sizeof(float) && offsetof(Candidate, logit) == 0);
  for (size_t i = 0; i < candidates.size(); i += kLanes) {
    const std::span<const Candidate> some =
        candidates.subspan(i, std::min<size_t>(kLanes, candidates.size() - i));
    float pairs[2 * kLanes] = {};
    std::memcpy(pairs, some.data(), some.size_bytes());
    Avx2Lanes logits, tokens;
    Avx2Lanes::LoadPairs(pairs, logits, tokens);
    float weights[kLanes];
    softmax.Weights(logits).Store(weights);
    for (size_t j = 0; j < some.size(); ++j) {
      if (visit(some[j], weights[j])) return true;
    }
  }
  return false;
}

constexpr size_t kFewToSort = 512;  // comparing is faster then

/// Sorts by a key of 32 bits, and leaves the order of equal ones. Source: Knuth, The Art of
/// Computer Programming, volume 3, section 5.2.5 (radix list sort, from the lowest digit).
template <typename KeyOf>
void SortByKey(std::span<Candidate> candidates, KeyOf key_of) {
  constexpr int kDigitBits = 11;
  constexpr size_t kDigits = 3;
  constexpr uint32_t kMask = (uint32_t{1} << kDigitBits) - 1;
  const auto digit_of = [&](const Candidate& candidate, size_t place) {
    return (key_of(candidate) >> (kDigitBits * place)) & kMask;
  };
  std::array<std::array<uint32_t, kMask + 1>, kDigits> counts{};
  for (const Candidate& candidate : candidates) {
    for (size_t place = 0; place < kDigits; ++place) ++counts[place][digit_of(candidate, place)];
  }
  std::vector<Candidate> spare(candidates.size());
  std::span<Candidate> from = candidates;
  std::span<Candidate> to = spare;
  for (size_t place = 0; place < kDigits; ++place) {
    std::array<uint32_t, kMask + 1>& next = counts[place];
    if (next[digit_of(from.front(), place)] == from.size()) continue;  // all have the same digit
    uint32_t before = 0;
    for (uint32_t& count : next) before += std::exchange(count, before);
    for (const Candidate& candidate : from) to[next[digit_of(candidate, place)]++] = candidate;
    std::swap(from, to);
  }
  if (from.data() != candidates.data()) std::copy(from.begin(), from.end(), candidates.begin());
}

/// Falls as the logit rises; both zeros have the same.
uint32_t FallingKey(float logit) {
  constexpr uint32_t kSign = 0x80000000;
  const auto bits = std::bit_cast<uint32_t>(logit == 0.0F ? 0.0F : logit);
  return (bits & kSign) != 0 ? bits : ~(bits | kSign);
}

}  // namespace

void SortByToken(std::span<Candidate> candidates) {
  if (candidates.size() <= kFewToSort) {
    std::sort(candidates.begin(), candidates.end(), EarlierToken);
  } else if (!std::is_sorted(candidates.begin(), candidates.end(), EarlierToken)) {
    SortByKey(candidates, [](const Candidate& c) { return static_cast<uint32_t>(c.token); });
  }
}

void SortBestFirst(std::span<Candidate> candidates) {
  if (candidates.size() <= kFewToSort) {
    std::sort(candidates.begin(), candidates.end(), Better);
    return;
  }
  SortByToken(candidates);
  SortByKey(candidates, [](const Candidate& c) { return FallingKey(c.logit); });
}

std::vector<BlockSum> SumBlocks(std::span<const Candidate> candidates, const Softmax& softmax) {
  std::vector<BlockSum> blocks;
  while (!candidates.empty()) {
    const int32_t number = candidates.front().token / kSumRows;
    const auto end = std::partition_point(
        candidates.begin(), candidates.end(),
        [number](const Candidate& candidate) { return candidate.token / kSumRows == number; });
    const auto count = static_cast<size_t>(end - candidates.begin());
    double sum = 0.0;
    ForEachWeight(candidates.first(count), softmax, [&sum](const Candidate&, float weight) {
      sum += weight;
      return false;
    });
    blocks.push_back({candidates.first(count), sum});
    candidates = candidates.subspan(count);
  }
  return blocks;
}

std::vector<double> SumsOf(std::span<const BlockSum> blocks) {
  std::vector<double> sums;
  sums.reserve(blocks.size());
  for (const BlockSum& block : blocks) sums.push_back(block.sum);
  return sums;
}

double SumOfBlock(std::span<const float> logits, const Softmax& softmax) {
  double sum = 0.0;
  for (size_t i = 0; i < logits.size(); i += kLanes) {
    const auto count = static_cast<int>(std::min<size_t>(kLanes, logits.size() - i));
    const bool whole = count == kLanes;
    float weights[kLanes];
    softmax.Weights(whole ? Avx2Lanes::Load(&logits[i]) : Avx2Lanes::LoadPart(&logits[i], count))
        .Store(weights);
    for (int j = 0; j < count; ++j) sum += weights[j];
  }
  return sum;
}

double TotalOf(std::span<const double> sums) {
  double total = 0.0;
  for (const double sum : sums) total += sum;
  return total;
}

/// Slices of falling logits, each twice as deep as the one before.
bool KeepBest(std::vector<Candidate>& candidates, double wanted, const Softmax& softmax) {
  constexpr float kDeepest = 128.0F;  // where exp has long been zero
  double reached = 0.0;
  size_t kept = 0;
  bool enough = false;
  for (float depth = 1.0F; !enough && kept < candidates.size(); depth *= 2.0F) {
    const float floor = softmax.best - depth * softmax.temperature;
    const auto first = candidates.begin() + static_cast<ptrdiff_t>(kept);
    const auto last =
        depth > kDeepest ? candidates.end()
                         : std::partition(first, candidates.end(),
                                          [floor](const Candidate& c) { return c.logit >= floor; });
    SortBestFirst({first, last});
    enough = ForEachWeight({first, last}, softmax, [&](const Candidate&, float weight) {
      reached += weight;
      ++kept;
      return reached >= wanted;
    });
  }
  candidates.resize(kept);
  return enough;
}

double Uniform(const SamplingParams& params, uint64_t token_index) {
  const auto low = [](uint64_t x) { return static_cast<uint32_t>(x); };
  const auto high = [](uint64_t x) { return static_cast<uint32_t>(x >> 32); };
  const std::array<uint32_t, 4> random =
      Philox4x32({low(token_index), high(token_index), params.sample_number, 0},
                 {low(params.seed), high(params.seed)});
  const uint64_t bits = uint64_t{random[0]} << 32 | random[1];
  return static_cast<double>(bits >> 11) * 0x1p-53;
}

/// Where rounding pushes the target past every block, the last that has a weight is drawn from.
PlaceInSums FindBlock(std::span<const double> sums, double uniform) {
  const double target = uniform * TotalOf(sums);
  PlaceInSums place;
  double before = 0.0;
  for (size_t block = 0; block < sums.size(); ++block) {
    if (sums[block] == 0.0) continue;
    place = {block, target - before};
    if (place.within < sums[block]) break;
    before += sums[block];
  }
  return place;
}

/// The same within a block.
int32_t FindToken(std::span<const Candidate> candidates, const Softmax& softmax, double within) {
  int32_t found = kPaddingToken;
  double running = 0.0;
  ForEachWeight(candidates, softmax, [&](const Candidate& candidate, float weight) {
    running += weight;
    if (weight > 0.0F) found = candidate.token;
    return weight > 0.0F && within < running;
  });
  return found;
}

int32_t DrawToken(std::span<const Candidate> candidates, const Softmax& softmax, double uniform) {
  const std::vector<BlockSum> blocks = SumBlocks(candidates, softmax);
  const PlaceInSums place = FindBlock(SumsOf(blocks), uniform);
  return FindToken(blocks[place.block].candidates, softmax, place.within);
}

}  // namespace tandem::core
