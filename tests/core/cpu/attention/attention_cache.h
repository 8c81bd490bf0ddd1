#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "core/base/float_convert.h"
#include "core/cpu/attention/attention.h"
#include "core/cpu/simd/float8.h"

namespace tandem::core::attention {

inline constexpr int kLayers = 2;

inline float Random(std::mt19937& generator) {
  return static_cast<float>(generator()) * 0x1p-31F - 1.0F;
}

inline bool SameBits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

/// A pool with one sequence, whose blocks lie in shuffled order; every byte that nobody wrote is
/// part of a NaN. Keys and values stand beside it, rounded to the cache's dtype, for the reference.
class Cache {
 public:
  Cache(int head_dim, int kv_heads, KvDtype dtype, int64_t tokens, uint32_t seed = 1)
      : generator_(seed), head_dim_(head_dim), kv_heads_(kv_heads), dtype_(dtype) {
    KvGeometry geometry;
    geometry.groups = {{0, {0, 1}}};
    geometry.layers = kLayers;
    geometry.kv_heads = kv_heads;
    geometry.head_dim = head_dim;
    geometry.dtype = dtype;
    const int64_t count = (tokens + kPageTokens - 1) / kPageTokens;
    pool_.assign(static_cast<size_t>(geometry.BlockBytes(0) * count), std::byte{0xff});
    const int64_t layer_bytes = geometry.PageBytes() * kv_heads;
    view_ = KvView(geometry, {{pool_.data(), geometry.BlockBytes(0), 0},
                              {pool_.data() + layer_bytes, geometry.BlockBytes(0), 0}});
    for (int64_t b = 0; b < count; ++b) blocks_.push_back(static_cast<BlockId>(b));
    std::shuffle(blocks_.begin(), blocks_.end(), generator_);
    for (int64_t t = 0; t < tokens; ++t) Append();
  }

  void Append() {
    const auto token = static_cast<int64_t>(keys_.size()) / (kLayers * kv_heads_);
    for (int layer = 0; layer < kLayers; ++layer) {
      for (int head = 0; head < kv_heads_; ++head) {
        std::vector<float> key(static_cast<size_t>(head_dim_)), value(key.size());
        for (float& x : key) x = Random(generator_) * 2.0F;
        for (float& x : value) x = Random(generator_);
        StoreKeyValue(view_.geometry(), Page(layer, head, token),
                      static_cast<int>(token % kPageTokens), key, value);
        for (auto* vector : {&key, &value}) {
          Round(*vector);
        }
        keys_.push_back(key);
        values_.push_back(value);
      }
    }
  }

  KvPage Page(int layer, int head, int64_t token) const {
    return view_.Page(layer, head, blocks_[static_cast<size_t>(token / kPageTokens)]);
  }
  const std::vector<float>& key(int layer, int head, int64_t token) const {
    return keys_[Index(layer, head, token)];
  }
  const std::vector<float>& value(int layer, int head, int64_t token) const {
    return values_[Index(layer, head, token)];
  }
  HeadPages Head(int layer, int head) const { return {&view_, layer, head, blocks_}; }
  std::vector<float> Query() {
    std::vector<float> query(static_cast<size_t>(head_dim_));
    for (float& x : query) x = Random(generator_) * 2.0F;
    return query;
  }
  std::vector<BlockId>& blocks() { return blocks_; }
  int head_dim() const { return head_dim_; }

  /// Makes every byte of a token's slot part of a NaN.
  void Poison(int layer, int head, int64_t token) {
    const std::vector<float> nan(static_cast<size_t>(head_dim_),
                                 std::numeric_limits<float>::quiet_NaN());
    StoreKeyValue(view_.geometry(), Page(layer, head, token), static_cast<int>(token % kPageTokens),
                  nan, nan);
  }

 private:
  /// To the cache's dtype.
  void Round(std::vector<float>& vector) const {
    if (dtype_ == KvDtype::kF16) {
      for (float& x : vector) x = HalfToFloat(FloatToHalf(x));
    }
    if (dtype_ == KvDtype::kF8) {
      uint32_t magnitude = 0;
      for (const float x : vector) magnitude = std::max(magnitude, MagnitudeBits(x));
      const Float8Scale scale = ScaleOfFloat8(magnitude);
      for (float& x : vector)
        x = HalfToFloat(HalfOfFloat8(ToFloat8(x * scale.inverse))) * scale.scale;
    }
  }
  size_t Index(int layer, int head, int64_t token) const {
    return static_cast<size_t>((token * kLayers + layer) * kv_heads_ + head);
  }

  std::mt19937 generator_;
  int head_dim_;
  int kv_heads_;
  KvDtype dtype_;
  std::vector<std::byte> pool_;
  KvView view_;
  std::vector<BlockId> blocks_;
  std::vector<std::vector<float>> keys_;  // [tokens, layers, kv_heads][head_dim]
  std::vector<std::vector<float>> values_;
};

/// The slow obvious softmax in double, over the visible positions, which ascend.
inline void ExpectNearDouble(const HeadPages& pages, const Cache& cache,
                             const std::vector<float>& query, const std::vector<int64_t>& visible,
                             float scale, const std::vector<float>& out, float slope = 0.0F) {
  const int layer = pages.layer, head = pages.kv_head;
  const int64_t position = visible.back();
  std::vector<double> scores;
  double size = 0.0, maximum = -1e300;  // size: what bounds the rounding of a score
  for (const int64_t t : visible) {
    double score = 0.0, absolute = 0.0;
    for (size_t d = 0; d < query.size(); ++d) {
      const double term = static_cast<double>(query[d]) * cache.key(layer, head, t)[d];
      score += term;
      absolute += std::fabs(term);
    }
    // ALiBi adds a term that is exact, and a rounding.
    const double bias = double{slope} * static_cast<double>(t - position);
    absolute += std::fabs(bias / scale) / 16.0;
    scores.push_back(score * scale + bias);
    maximum = std::max(maximum, scores.back());
    size = std::max(size, absolute * std::fabs(scale));
  }
  double sum = 0.0;
  for (double& score : scores) sum += score = std::exp(score - maximum);
  // A score errs by head_dim roundings of at most `size`, and so does the maximum; a weight by
  // that, relatively, and by exp's ulp; sums of up to 256 tokens and the chunks round once a term.
  // Scales of keys and values, which the reference has rounded into them, round twice each.
  const double epsilon = 0x1p-24;
  const double relative =
      2.0 * (static_cast<double>(query.size()) + 4.0) * size * epsilon +
      (256.0 + 2.0 * static_cast<double>(position / kChunkTokens + 1) + 10.0) * epsilon;
  for (size_t d = 0; d < out.size(); ++d) {
    double exact = 0.0, absolute = 0.0;
    for (size_t i = 0; i < scores.size(); ++i) {
      const double term = scores[i] / sum * cache.value(layer, head, visible[i])[d];
      exact += term;
      absolute += std::fabs(term);
    }
    ASSERT_NEAR(out[d], exact, 2.0 * relative * absolute) << "position " << position << " d " << d;
  }
}

}  // namespace tandem::core::attention
