#include "kv_store/base/chain_blocks.h"

#include <algorithm>

#include "core/model/kv_view.h"

namespace tandem::kv_store {

namespace {

constexpr size_t kBlock = core::kPageTokens;

}  // namespace

std::vector<BlockHash> FullBlocksOf(const BlockHash& before, std::span<const int32_t> tokens) {
  std::vector<BlockHash> blocks;
  for (size_t begin = 0; begin + kBlock <= tokens.size(); begin += kBlock) {
    blocks.push_back(
        ChainHash(blocks.empty() ? before : blocks.back(), tokens.subspan(begin, kBlock)));
  }
  return blocks;
}

std::vector<BlockHash> BlocksOfChain(uint64_t tenant, std::span<const int32_t> tokens,
                                     size_t kept) {
  std::vector<BlockHash> blocks;
  BlockHash before = TenantHash(tenant);
  for (size_t begin = 0; begin < tokens.size(); begin += kBlock) {
    const std::span<const int32_t> rest = tokens.subspan(begin);
    const size_t most = std::min(rest.size(), kBlock);
    for (size_t size = 1; size <= most; ++size) {
      if (begin + size > kept) blocks.push_back(ChainHash(before, rest.first(size)));
    }
    if (most == kBlock) before = ChainHash(before, rest.first(kBlock));
  }
  return blocks;
}

}  // namespace tandem::kv_store
