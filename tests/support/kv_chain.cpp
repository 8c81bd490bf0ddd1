#include "tests/support/kv_chain.h"

#include <algorithm>
#include <numeric>

#include "core/model/host_memory.h"
#include "kv_store/pages/page_pool.h"
#include "tests/support/random.h"

namespace tandem::testing {
namespace {

constexpr size_t kBlock = core::kPageTokens;

std::vector<std::span<const int32_t>> PartsOf(std::span<const int32_t> tokens, bool tail) {
  std::vector<std::span<const int32_t>> parts;
  for (size_t first = 0; first < tokens.size(); first += kBlock) {
    const auto part = tokens.subspan(first, std::min(kBlock, tokens.size() - first));
    if (part.size() == kBlock || tail) parts.push_back(part);
  }
  return parts;
}

}  // namespace

std::vector<kv_store::TierRecord> KvChain::Records(std::span<const int32_t> tokens, bool tail,
                                                   uint64_t seed) const {
  const std::vector<int64_t> sizes(geometry.groups.size(), 1);
  core::HostMemory memory;
  const auto pool = kv_store::PagePool::Create(memory, geometry, sizes);
  if (!pool.ok()) return {};
  std::vector<kv_store::TierRecord> records;
  kv_store::BlockHash before = kv_store::TenantHash(tenant);
  for (const std::span<const int32_t> part : PartsOf(tokens, tail)) {
    const kv_store::BlockHash block = kv_store::ChainHash(before, part);
    for (int32_t group = 0; group < static_cast<int32_t>(geometry.groups.size()); ++group) {
      for (int32_t head = 0; head < geometry.kv_heads; ++head) {
        SplitMix random(seed * 1000 + records.size());
        for (const int layer : geometry.groups[static_cast<size_t>(group)].layers) {
          std::byte* page = pool->view().Page(layer, head, 0).keys;
          std::generate(page, page + geometry.PageBytes(),
                        [&random] { return static_cast<std::byte>(random.Next()); });
        }
        const kv_store::RecordName name{.block = block,
                                        .tokens = static_cast<int32_t>(part.size()),
                                        .kv_head = head,
                                        .group = group};
        records.push_back({.key = kv_store::RecordKeyOf(fingerprint, name),
                           .block = block,
                           .before = before,
                           .tenant = tenant,
                           .bytes = *kv_store::EncodeRecord(fingerprint, name, *pool, 0, head)});
      }
    }
    before = block;
  }
  return records;
}

std::vector<kv_store::BlockHash> KvChain::Blocks(std::span<const int32_t> tokens, bool tail) const {
  std::vector<kv_store::BlockHash> blocks;
  kv_store::BlockHash hash = kv_store::TenantHash(tenant);
  for (const std::span<const int32_t> part : PartsOf(tokens, tail)) {
    hash = kv_store::ChainHash(hash, part);
    blocks.push_back(hash);
  }
  return blocks;
}

std::vector<int32_t> CountedTokens(int32_t count, int32_t first) {
  std::vector<int32_t> tokens(static_cast<size_t>(count));
  std::iota(tokens.begin(), tokens.end(), first);
  return tokens;
}

}  // namespace tandem::testing
