#include "tests/support/record_checksum.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <cstring>

#include "kv_store/records/record.h"

namespace tandem::testing {

std::vector<std::byte> WithRecordChecksum(std::vector<std::byte> record) {
  constexpr size_t kChecksumBytes = 16;
  if (record.size() < kv_store::kRecordHeaderBytes) return record;
  constexpr size_t kVersionAt = 8;
  const bool state = record[kVersionAt] == std::byte{kv_store::kStateRecordVersion};
  const size_t header = state ? kv_store::kStateRecordHeaderBytes : kv_store::kRecordHeaderBytes;
  if (record.size() < header) return record;
  const size_t at = header - kChecksumBytes;
  std::vector<std::byte> rest = record;
  rest.erase(rest.begin() + static_cast<ptrdiff_t>(at),
             rest.begin() + static_cast<ptrdiff_t>(at + kChecksumBytes));
  XXH128_canonical_t sum;
  XXH128_canonicalFromHash(&sum, XXH3_128bits(rest.data(), rest.size()));
  std::memcpy(record.data() + at, sum.digest, kChecksumBytes);
  return record;
}

}  // namespace tandem::testing
