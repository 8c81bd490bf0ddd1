#include "kv_store/base/block_hash.h"

#include <sodium.h>

#include <bit>

namespace tandem::kv_store {
namespace {

// Keeps these hashes apart from any other use of BLAKE2b, and from other layouts of what is hashed.
constexpr char kPurpose[] = "tandem kv block 1";

template <typename T>
const unsigned char* Bytes(const T* data) {
  static_assert(std::endian::native == std::endian::little);
  return reinterpret_cast<const unsigned char*>(data);
}

}  // namespace

BlockHash TenantHash(uint64_t tenant) {
  BlockHash hash;
  crypto_generichash(hash.data(), hash.size(), Bytes(&tenant), sizeof(tenant), Bytes(kPurpose),
                     sizeof(kPurpose));
  return hash;
}

BlockHash ChainHash(const BlockHash& before, std::span<const int32_t> tokens) {
  BlockHash hash;
  crypto_generichash_state state;
  crypto_generichash_init(&state, nullptr, 0, hash.size());
  crypto_generichash_update(&state, before.data(), before.size());
  crypto_generichash_update(&state, Bytes(tokens.data()), tokens.size_bytes());
  crypto_generichash_final(&state, hash.data(), hash.size());
  return hash;
}

}  // namespace tandem::kv_store
