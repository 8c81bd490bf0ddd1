#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

namespace tandem::kv_store {

/// 256 bits of BLAKE2b: what a block of tokens is known by, together with all before it.
using BlockHash = std::array<uint8_t, 32>;

/// Where the chain of a tenant begins. Tenants are salted apart: equal tokens of two tenants have
/// different hashes.
BlockHash TenantHash(uint64_t tenant);

/// The hash of a block behind the one (or the tenant) that has the hash `before`.
BlockHash ChainHash(const BlockHash& before, std::span<const int32_t> tokens);

/// For hash tables: the hash is uniform already.
struct BlockHashBits {
  size_t operator()(const BlockHash& hash) const {
    size_t bits = 0;
    std::memcpy(&bits, hash.data(), sizeof(bits));
    return bits;
  }
};

}  // namespace tandem::kv_store
