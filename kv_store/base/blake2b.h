#pragma once

#include <sodium.h>

#include <cstddef>
#include <span>

namespace tandem::kv_store {

/// BLAKE2b (RFC 7693) without a key, as an array of 16 to 64 bytes.
template <typename Array>
Array Blake2b(std::span<const std::byte> bytes) {
  Array hash{};
  crypto_generichash(reinterpret_cast<unsigned char*>(hash.data()), hash.size(),
                     reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size(), nullptr,
                     0);
  return hash;
}

}  // namespace tandem::kv_store
