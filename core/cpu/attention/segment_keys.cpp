#include "core/cpu/attention/segment_keys.h"

#include "core/cpu/attention/infini_kernels.h"
#include "core/cpu/attention/infini_memory.h"
#include "core/cpu/elementwise/elementwise.h"

namespace tandem::core {

void SegmentKeys::Prepare(int64_t end) {
  const auto count = static_cast<size_t>(pairs());
  std::vector<float> cosines(count);
  std::vector<float> sines(count);
  while (static_cast<int64_t>(angles_.size()) * kPageTokens < end) {
    const int64_t first = static_cast<int64_t>(angles_.size()) * kPageTokens;
    std::vector<float>& page = angles_.emplace_back(2 * count * kPageTokens);
    for (int64_t t = 0; t < kPageTokens; ++t) {
      RopeAngles(rope_, first + t, cosines, sines);
      for (size_t i = 0; i < count; ++i) {
        page[i * kPageTokens + static_cast<size_t>(t)] = cosines[i];
        page[(count + i) * kPageTokens + static_cast<size_t>(t)] = sines[i];
      }
    }
  }
}

void SegmentKeys::Read(Isa isa, const KvGeometry& geometry, const KvPage& page, int64_t page_index,
                       float* keys, float* values) const {
  ReadPageKeys(geometry, page, keys);
  ReadPageValues(geometry, page, values);
  const InfiniKernels& kernels = InfiniKernelsOf(isa);
  const float* const cosines =
      angles_[static_cast<size_t>(page_index % (segment_ / kPageTokens))].data();
  const float* const sines = cosines + pairs() * kPageTokens;
  const bool adjacent = rope_.layout == RopeLayout::kAdjacentPairs;
  for (int64_t i = 0; i < pairs(); ++i) {
    float* const a = keys + (adjacent ? 2 * i : i) * kPageTokens;
    float* const b = keys + (adjacent ? 2 * i + 1 : i + pairs()) * kPageTokens;
    kernels.rotate(cosines + i * kPageTokens, sines + i * kPageTokens, a, b);
  }
}

}  // namespace tandem::core
