#include "core/sampling/lane_sums.h"

#include "core/cpu/simd/lanes.h"

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

}  // namespace

double SumInLanes(std::span<const float> logits, const Softmax& softmax) {
  DoubleLanes sums;
  size_t row = 0;
  for (; row + kLanes <= logits.size(); row += kLanes) {
    sums.Add(softmax.Weights(Avx2Lanes::Load(&logits[row])));
  }
  if (const int rest = static_cast<int>(logits.size() - row); rest > 0) {
    const Avx2Lanes some = softmax.Weights(Avx2Lanes::LoadPart(&logits[row], rest));
    sums.Add(Avx2Lanes::KeepRange(some, 0, rest, 0.0F));
  }
  return sums.Fold();
}

}  // namespace tandem::core
