#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "core/base/status.h"
#include "kv_store/base/encrypted_box.h"

namespace tandem::kv_store {

/// Who signed an exported file: an Ed25519 key (libsodium).
using PublicKey = std::array<uint8_t, 32>;
/// 64 hexadecimal digits, as people pass it on.
std::string PublicKeyText(const PublicKey& key);

class SigningKey {
 public:
  using Seed = std::array<uint8_t, 32>;

  explicit SigningKey(const Seed& seed);
  ~SigningKey();
  SigningKey(const SigningKey& other) = default;
  SigningKey& operator=(const SigningKey&) = delete;

  const PublicKey& public_key() const { return public_key_; }
  const std::array<uint8_t, 64>& secret() const { return secret_; }

 private:
  PublicKey public_key_{};
  std::array<uint8_t, 64> secret_{};
};

/// The key of a state directory, which is drawn and kept in its file `export.key` (mode 0600) at
/// the first use: 64 hexadecimal digits, or what `box` encrypted if there is one. kInvalidArgument
/// if the file holds something else, may be read by others, or was made with another box;
/// kUnavailable if it can be neither read nor made.
absl::StatusOr<SigningKey> OpenSigningKey(const std::string& directory, const EncryptedBox* box);

/// The keys that `text` names: 64 hexadecimal digits, or a file with such a key a line (empty lines
/// and those that begin with # count for nothing). kInvalidArgument otherwise.
absl::StatusOr<std::vector<PublicKey>> ReadPublicKeys(const std::string& text);

}  // namespace tandem::kv_store
