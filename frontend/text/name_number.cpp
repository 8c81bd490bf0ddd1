#include "frontend/text/name_number.h"

#include <sodium.h>

#include <array>
#include <cstring>

namespace tandem::frontend {

uint64_t NumberOf(std::string_view name) {
  if (name.empty()) return 0;
  std::array<unsigned char, crypto_generichash_BYTES_MIN> hash{};
  crypto_generichash(hash.data(), hash.size(), reinterpret_cast<const unsigned char*>(name.data()),
                     name.size(), nullptr, 0);
  uint64_t number = 0;
  std::memcpy(&number, hash.data(), sizeof(number));
  return number;
}

}  // namespace tandem::frontend
