#include "frontend/text/name_number.h"

#include <array>
#include <cstring>
#include <span>

#include "kv_store/base/blake2b.h"

namespace tandem::frontend {

uint64_t NumberOf(std::string_view name) {
  if (name.empty()) return 0;
  const auto hash =
      kv_store::Blake2b<std::array<unsigned char, 16>>(std::as_bytes(std::span(name)));
  uint64_t number = 0;
  std::memcpy(&number, hash.data(), sizeof(number));
  return number;
}

}  // namespace tandem::frontend
