#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/container/flat_hash_map.h"

namespace tandem::parallel {

/// Where a sequence has been before: finds the longest earlier run of tokens that is the same as
/// its end, in hash chains over pairs of tokens. About 40 bytes a token.
///
/// Source: prompt lookup decoding (Saxena 2023); chains as in Deutsch 1996 (RFC 1951, 4).
/// Thread safety: none.
class DraftIndex {
 public:
  /// The last `length` tokens of the sequence stand earlier in it, too; there, `next` followed.
  struct Match {
    int32_t next = 0;
    int32_t length = 0;  // 0: nowhere; otherwise 2 to kLongestMatch
  };
  static constexpr int32_t kLongestMatch = 32;

  void Append(int32_t token);

  /// Of the longest matches the latest, among the last kMostCandidates places of the last pair.
  Match Find() const;

  /// The `count` tokens that followed the match; at the end of the sequence they repeat.
  std::vector<int32_t> Continue(const Match& match, int32_t count) const;

  std::span<const int32_t> tokens() const { return tokens_; }

 private:
  static constexpr int32_t kNowhere = -1;
  static constexpr int kMostCandidates = 32;

  int32_t MatchLength(int32_t position) const;

  std::vector<int32_t> tokens_;
  std::vector<int32_t> previous_;  // [tokens] where the pair that ends here stood before
  absl::flat_hash_map<uint64_t, int32_t> latest_;  // a pair, and where it ended last
};

}  // namespace tandem::parallel
