#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "kv_store/base/block_hash.h"

namespace tandem::kv_store {

/// The hashes of the full blocks of tokens that stand on the block (or the tenant) `before`.
std::vector<BlockHash> FullBlocksOf(const BlockHash& before, std::span<const int32_t> tokens);

/// The hashes of all blocks that a sequence of a tenant's tokens may have left in tiers: every full
/// block, and a tail of every length, since each turn may have ended there. Those that end within
/// the first `kept` tokens are left out. Time: a hash a token.
std::vector<BlockHash> BlocksOfChain(uint64_t tenant, std::span<const int32_t> tokens, size_t kept);

}  // namespace tandem::kv_store
