#include "parallel/plan/digest.h"

#include <sodium.h>

#include "fmt/format.h"

namespace tandem::parallel {
namespace {

const unsigned char* Bytes(std::span<const std::byte> bytes) {
  return reinterpret_cast<const unsigned char*>(bytes.data());
}

}  // namespace

Digest DigestOf(std::span<const std::byte> bytes) {
  Digest digest;
  crypto_generichash(digest.data(), digest.size(), Bytes(bytes), bytes.size(), nullptr, 0);
  return digest;
}

std::string DigestText(const Digest& digest) {
  std::string text;
  for (size_t i = 0; i < digest.size() / 2; ++i) text += fmt::format("{:02x}", digest[i]);
  return text;
}

void RollingDigest::Add(std::span<const std::byte> bytes) {
  crypto_generichash_state state;
  crypto_generichash_init(&state, nullptr, 0, value_.size());
  crypto_generichash_update(&state, value_.data(), value_.size());
  crypto_generichash_update(&state, Bytes(bytes), bytes.size());
  crypto_generichash_final(&state, value_.data(), value_.size());
}

}  // namespace tandem::parallel
