#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/status.h"

namespace tandem::kv_store {

/// The secret of a state directory, from which all its keys are derived.
using StateKey = std::array<uint8_t, 32>;

/// Reads a key file: 32 bytes, or 64 hexadecimal digits and a newline. kInvalidArgument where it
/// holds something else, cannot be read, or may be read by others; says what to do.
absl::StatusOr<StateKey> ReadStateKey(const std::string& path);

/// Encryption at rest. A text on a disk is encrypted with a key of its tenant and bound to its
/// place: nobody can read it, and nobody can change or move it unnoticed.
///
/// XChaCha20-Poly1305 with random nonces; a tenant's key is a keyed BLAKE2b hash (libsodium). An
/// encrypted text shows its length, and which texts belong to the same tenant, but not to which.
/// Thread safety: none needed, immutable.
class EncryptedBox {
 public:
  /// What Seal adds: version, tenant's tag, nonce, authentication.
  static constexpr size_t kOverhead = 1 + 16 + 24 + 16;

  explicit EncryptedBox(const StateKey& key);
  ~EncryptedBox();
  EncryptedBox(const EncryptedBox&) = delete;
  EncryptedBox& operator=(const EncryptedBox&) = delete;

  /// `place`: where it will lie, such as a key in a database; Open must be told the same.
  std::vector<std::byte> Seal(uint64_t tenant, std::span<const std::byte> place,
                              std::span<const std::byte> plain) const;
  /// kFailedPrecondition if a newer program encrypted it; kDataLoss if it was changed, lay
  /// elsewhere, or was encrypted with another key.
  absl::StatusOr<std::vector<std::byte>> Open(std::span<const std::byte> place,
                                              std::span<const std::byte> encrypted) const;

  /// Whether bytes may have come from Seal, of this program or an older one.
  static bool LooksEncrypted(std::span<const std::byte> bytes);

  /// A key for another purpose. Whoever has it can tell neither this key nor the state's.
  std::array<uint8_t, 32> Derive(std::string_view purpose, std::span<const std::byte> of) const;

 private:
  StateKey key_;
};

}  // namespace tandem::kv_store
