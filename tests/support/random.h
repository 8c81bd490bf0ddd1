#pragma once

#include <cstdint>
#include <vector>

namespace tandem::testing {

/// A small generator whose numbers are the same everywhere (the standard's distributions are not).
/// Source: Steele, Lea & Flood 2014 (SplitMix64).
class SplitMix {
 public:
  explicit SplitMix(uint64_t seed) : state_(seed) {}

  uint64_t Next() {
    state_ += 0x9E3779B97F4A7C15;
    uint64_t z = state_;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
    return z ^ (z >> 31);
  }

  /// In [0, n).
  uint64_t Below(uint64_t n) { return Next() % n; }

  /// In [0, 1), 24 bits.
  float Unit() { return static_cast<float>(Next() >> 40) * 0x1p-24F; }

 private:
  uint64_t state_;
};

/// Of a vocabulary, uniformly.
inline std::vector<int32_t> RandomTokens(int count, int vocab, uint64_t seed) {
  SplitMix random(seed);
  std::vector<int32_t> tokens;
  for (int i = 0; i < count; ++i) {
    tokens.push_back(static_cast<int32_t>(random.Below(static_cast<uint64_t>(vocab))));
  }
  return tokens;
}

}  // namespace tandem::testing
