#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/model/kv_view.h"
#include "kv_store/records/record.h"
#include "kv_store/records/tier.h"

namespace tandem::testing {

/// Real KV records of made-up tokens: what ranks leave behind of a chat.
struct KvChain {
  kv_store::Fingerprint fingerprint{1, 2, 3};
  core::KvGeometry geometry{.groups = {{.window = 0, .layers = {0, 1}}},
                            .layers = 2,
                            .kv_heads = 3,
                            .head_dim = 4,
                            .dtype = core::KvDtype::kF16};
  uint64_t tenant = 0;

  /// Of every block of 64 tokens, and of what is left at the end if `tail`; bytes follow from seed
  /// and place. Ordered by block, layer group, KV head.
  std::vector<kv_store::TierRecord> Records(std::span<const int32_t> tokens, bool tail = false,
                                            uint64_t seed = 1) const;
  /// Hashes of the blocks of Records.
  std::vector<kv_store::BlockHash> Blocks(std::span<const int32_t> tokens, bool tail = false) const;
};

/// 0, 1, 2, ... from `first` on.
std::vector<int32_t> CountedTokens(int32_t count, int32_t first = 0);

}  // namespace tandem::testing
