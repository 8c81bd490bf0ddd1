#include "tests/support/conversation_checksum.h"

#include <sodium.h>

#include <cstdint>
#include <cstring>

namespace tandem::testing {

std::vector<std::byte> WithConversationChecksum(std::string_view place,
                                                std::span<const std::byte> versioned) {
  constexpr size_t kBytes = 16;
  const uint64_t place_bytes = place.size();
  std::vector<unsigned char> hashed(sizeof(place_bytes) + place.size() + versioned.size());
  std::memcpy(hashed.data(), &place_bytes, sizeof(place_bytes));
  std::memcpy(hashed.data() + sizeof(place_bytes), place.data(), place.size());
  if (!versioned.empty()) {
    std::memcpy(hashed.data() + sizeof(place_bytes) + place.size(), versioned.data(),
                versioned.size());
  }
  std::vector<std::byte> record(versioned.begin(), versioned.end());
  record.resize(versioned.size() + kBytes);
  crypto_generichash(reinterpret_cast<unsigned char*>(record.data()) + versioned.size(), kBytes,
                     hashed.data(), hashed.size(), nullptr, 0);
  return record;
}

}  // namespace tandem::testing
