#include "parallel/plan/digest.h"

#include <sodium.h>

#include "kv_store/base/blake2b.h"
#include "kv_store/base/hex.h"

namespace tandem::parallel {
namespace {

const unsigned char* Bytes(std::span<const std::byte> bytes) {
  return reinterpret_cast<const unsigned char*>(bytes.data());
}

}  // namespace

Digest DigestOf(std::span<const std::byte> bytes) { return kv_store::Blake2b<Digest>(bytes); }

std::string DigestText(const Digest& digest) {
  return kv_store::Hex(std::span(digest).first(digest.size() / 2));
}

void RollingDigest::Add(std::span<const std::byte> bytes) {
  crypto_generichash_state state;
  crypto_generichash_init(&state, nullptr, 0, value_.size());
  crypto_generichash_update(&state, value_.data(), value_.size());
  crypto_generichash_update(&state, Bytes(bytes), bytes.size());
  crypto_generichash_final(&state, value_.data(), value_.size());
}

}  // namespace tandem::parallel
