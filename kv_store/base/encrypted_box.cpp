#include "kv_store/base/encrypted_box.h"

#include <sodium.h>

#include <algorithm>
#include <cstring>

#include "kv_store/base/files.h"
#include "kv_store/base/hex.h"

namespace tandem::kv_store {
namespace {

constexpr std::byte kVersion{1};
constexpr size_t kTagBytes = 16;
constexpr size_t kNonceBytes = crypto_aead_xchacha20poly1305_ietf_NPUBBYTES;
constexpr size_t kMacBytes = crypto_aead_xchacha20poly1305_ietf_ABYTES;
static_assert(EncryptedBox::kOverhead == 1 + kTagBytes + kNonceBytes + kMacBytes);

const unsigned char* Bytes(std::span<const std::byte> bytes) {
  return reinterpret_cast<const unsigned char*>(bytes.data());
}

/// The key of a tenant can be told from its tag by whoever has the state's key, so that what is
/// encrypted need not name the tenant.
std::span<const std::byte> Tag(const std::array<uint8_t, 32>& hash) {
  return std::as_bytes(std::span(hash)).first(kTagBytes);
}

}  // namespace

absl::StatusOr<StateKey> ReadStateKey(const std::string& path) {
  absl::StatusOr<std::string> file = ReadSmallFile(path, /*secret=*/true);
  if (!file.ok()) return InvalidArgument("key file {}", Message(file.status()));
  std::string& text = *file;
  StateKey key{};
  if (text.size() == key.size()) {
    std::copy(text.begin(), text.end(), key.begin());
    return key;
  }
  const size_t size = text.size();
  while (!text.empty() && (text.back() == '\n' || text.back() == '\r')) text.pop_back();
  if (const auto digits = UnhexArray<key.size()>(text)) return *digits;
  return InvalidArgument(
      "key file {}: expected 32 bytes, or 64 hexadecimal digits, found {} bytes; make one with: "
      "(umask 077; head -c 32 /dev/urandom > {})",
      path, size, path);
}

EncryptedBox::EncryptedBox(const StateKey& key) : key_(key) {}
EncryptedBox::~EncryptedBox() { sodium_memzero(key_.data(), key_.size()); }

std::array<uint8_t, 32> EncryptedBox::Derive(std::string_view purpose,
                                             std::span<const std::byte> of) const {
  // The purpose's length keeps it apart from what follows.
  const auto length = static_cast<unsigned char>(std::min<size_t>(purpose.size(), 255));
  std::array<uint8_t, 32> derived{};
  crypto_generichash_state state;
  crypto_generichash_init(&state, key_.data(), key_.size(), derived.size());
  crypto_generichash_update(&state, &length, 1);
  crypto_generichash_update(&state, reinterpret_cast<const unsigned char*>(purpose.data()), length);
  crypto_generichash_update(&state, Bytes(of), of.size());
  crypto_generichash_final(&state, derived.data(), derived.size());
  return derived;
}

std::vector<std::byte> EncryptedBox::Seal(uint64_t tenant, std::span<const std::byte> place,
                                          std::span<const std::byte> plain) const {
  const auto tag = Derive("tenant tag", std::as_bytes(std::span(&tenant, 1)));
  const auto key = Derive("tenant key", Tag(tag));
  std::vector<std::byte> encrypted(kOverhead + plain.size());
  encrypted[0] = kVersion;
  std::memcpy(encrypted.data() + 1, tag.data(), kTagBytes);
  auto* nonce = reinterpret_cast<unsigned char*>(encrypted.data()) + 1 + kTagBytes;
  randombytes_buf(nonce, kNonceBytes);
  crypto_aead_xchacha20poly1305_ietf_encrypt(nonce + kNonceBytes, nullptr, Bytes(plain),
                                             plain.size(), Bytes(place), place.size(), nullptr,
                                             nonce, key.data());
  return encrypted;
}

bool EncryptedBox::LooksEncrypted(std::span<const std::byte> bytes) {
  return bytes.size() >= kOverhead && bytes[0] == kVersion;
}

absl::StatusOr<std::vector<std::byte>> EncryptedBox::Open(
    std::span<const std::byte> place, std::span<const std::byte> encrypted) const {
  if (encrypted.size() < kOverhead) {
    return absl::DataLossError(
        fmt::format("encrypted text of {} bytes: it has at least {}", encrypted.size(), kOverhead));
  }
  if (encrypted[0] != kVersion) {
    return FailedPrecondition("encrypted text of version {}: this program knows version {}",
                              static_cast<int>(encrypted[0]), static_cast<int>(kVersion));
  }
  const auto key = Derive("tenant key", encrypted.subspan(1, kTagBytes));
  const unsigned char* nonce = Bytes(encrypted) + 1 + kTagBytes;
  std::vector<std::byte> plain(encrypted.size() - kOverhead);
  if (crypto_aead_xchacha20poly1305_ietf_decrypt(
          reinterpret_cast<unsigned char*>(plain.data()), nullptr, nullptr, nonce + kNonceBytes,
          plain.size() + kMacBytes, Bytes(place), place.size(), nonce, key.data()) != 0) {
    return absl::DataLossError("encrypted text does not open: it is damaged, or lay elsewhere");
  }
  return plain;
}

}  // namespace tandem::kv_store
