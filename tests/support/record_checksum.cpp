#include "tests/support/record_checksum.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <cstring>

#include "kv_store/records/record.h"

namespace tandem::testing {

std::vector<std::byte> WithRecordChecksum(std::vector<std::byte> record) {
  constexpr size_t kChecksumBytes = 16;
  if (record.size() < kv_store::kRecordHeaderBytes) return record;
  const size_t at = kv_store::kRecordHeaderBytes - kChecksumBytes;
  std::vector<std::byte> rest = record;
  rest.erase(rest.begin() + static_cast<ptrdiff_t>(at),
             rest.begin() + static_cast<ptrdiff_t>(at + kChecksumBytes));
  XXH128_canonical_t sum;
  XXH128_canonicalFromHash(&sum, XXH3_128bits(rest.data(), rest.size()));
  std::memcpy(record.data() + at, sum.digest, kChecksumBytes);
  return record;
}

}  // namespace tandem::testing
