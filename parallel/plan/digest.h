#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace tandem::parallel {

/// 128 bits of BLAKE2b.
using Digest = std::array<uint8_t, 16>;

Digest DigestOf(std::span<const std::byte> bytes);

/// First half in hexadecimal, for messages.
std::string DigestText(const Digest& digest);

/// A digest of everything that was ever added: what a rank and rank 0 compare to learn whether they
/// still agree. Thread safety: none.
class RollingDigest {
 public:
  /// Continues with BLAKE2b(value so far, bytes).
  void Add(std::span<const std::byte> bytes);
  const Digest& value() const { return value_; }

 private:
  Digest value_{};
};

}  // namespace tandem::parallel
