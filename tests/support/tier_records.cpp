#include "tests/support/tier_records.h"

#include <cstring>

#include "tests/support/random.h"

namespace tandem::testing {

kv_store::BlockHash BlockNamed(int n) {
  kv_store::BlockHash hash{};
  SplitMix random(static_cast<uint64_t>(n));
  for (uint8_t& byte : hash) byte = static_cast<uint8_t>(random.Next());
  return hash;
}

kv_store::TierRecord RecordOf(int n, int before, int head, int64_t bytes, uint64_t tenant) {
  kv_store::TierRecord record;
  record.block = BlockNamed(n);
  record.before = BlockNamed(before);
  record.tenant = tenant;
  record.key = BlockNamed(1'000'000 + n * 1000 + head);
  uint64_t seed = 0;
  std::memcpy(&seed, record.key.data(), sizeof(seed));
  SplitMix random(seed);
  std::vector<std::byte> made(static_cast<size_t>(bytes));
  for (std::byte& byte : made) byte = static_cast<std::byte>(random.Next());
  record.bytes = std::move(made);
  return record;
}

std::vector<kv_store::RecordKey> KeysOf(const std::vector<kv_store::TierRecord>& records) {
  std::vector<kv_store::RecordKey> keys;
  for (const kv_store::TierRecord& record : records) keys.push_back(record.key);
  return keys;
}

}  // namespace tandem::testing
