#include "core/sampling/logprobs.h"

#include <algorithm>
#include <limits>

#include "core/base/double_math.h"
#include "core/cpu/simd/lanes.h"
#include "core/cpu/simd/lanes_math.h"
#include "core/sampling/sampler.h"

namespace tandem::core {
namespace {

/// The 16 sums of one block, lane = row mod 16.
struct DoubleLanes {
  __m256d part[4] = {_mm256_setzero_pd(), _mm256_setzero_pd(), _mm256_setzero_pd(),
                     _mm256_setzero_pd()};

  void Add(Avx2Lanes x) {
    part[0] = _mm256_add_pd(part[0], _mm256_cvtps_pd(_mm256_castps256_ps128(x.lo)));
    part[1] = _mm256_add_pd(part[1], _mm256_cvtps_pd(_mm256_extractf128_ps(x.lo, 1)));
    part[2] = _mm256_add_pd(part[2], _mm256_cvtps_pd(_mm256_castps256_ps128(x.hi)));
    part[3] = _mm256_add_pd(part[3], _mm256_cvtps_pd(_mm256_extractf128_ps(x.hi, 1)));
  }
  double Fold() const {
    const __m256d four =
        _mm256_add_pd(_mm256_add_pd(part[0], part[2]), _mm256_add_pd(part[1], part[3]));
    const __m128d two = _mm_add_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));
    return _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)));
  }
};

double SumOfExp(std::span<const float> logits, float max) {
  const Avx2Lanes highest = Avx2Lanes::Set(max);
  double total = 0.0;
  for (size_t begin = 0; begin < logits.size(); begin += size_t{kSumRows}) {
    const size_t end = std::min(begin + size_t{kSumRows}, logits.size());
    DoubleLanes sums;
    size_t row = begin;
    for (; row + kLanes <= end; row += kLanes) {
      sums.Add(LanesExp(Avx2Lanes::Load(&logits[row]) - highest));
    }
    if (const int rest = static_cast<int>(end - row); rest > 0) {
      const Avx2Lanes some = LanesExp(Avx2Lanes::LoadPart(&logits[row], rest) - highest);
      sums.Add(Avx2Lanes::KeepRange(some, 0, rest, 0.0F));
    }
    total += sums.Fold();
  }
  return total;
}

}  // namespace

std::optional<TokenLogprobs> LogprobsOf(std::span<const float> logits, int32_t chosen,
                                        int32_t top) {
  // The best one is needed in any case.
  const auto wanted = std::min(static_cast<size_t>(std::max(top, 1)), logits.size());
  std::vector<Candidate> best(wanted);
  SelectCandidates(logits, 0, best);
  if (best.empty() || best[0].token == kFailedToken) return std::nullopt;
  std::sort(best.begin(), best.end(), [](const Candidate& a, const Candidate& b) {
    return a.logit != b.logit ? a.logit > b.logit : a.token < b.token;
  });
  const float max = best[0].logit;
  const double log_sum = Log(SumOfExp(logits, max));
  const auto logprob = [&](float logit) {
    const double exact = (static_cast<double>(logit) - static_cast<double>(max)) - log_sum;
    return static_cast<float>(
        std::max(exact, static_cast<double>(std::numeric_limits<float>::lowest())));
  };
  TokenLogprobs result;
  result.chosen = {.token = chosen, .logprob = logprob(logits[static_cast<size_t>(chosen)])};
  for (int32_t i = 0; i < top && static_cast<size_t>(i) < best.size(); ++i) {
    const Candidate& candidate = best[static_cast<size_t>(i)];
    result.top.push_back({.token = candidate.token, .logprob = logprob(candidate.logit)});
  }
  return result;
}

}  // namespace tandem::core
