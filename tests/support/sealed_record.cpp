#include "tests/support/sealed_record.h"

#include <sodium.h>

#include "kv_store/record.h"

namespace tandem::testing {

std::vector<std::byte> SealedRecord(std::vector<std::byte> record) {
  constexpr size_t kChecksumBytes = 32;
  if (record.size() < kv_store::kRecordHeaderBytes) return record;
  auto* bytes = reinterpret_cast<unsigned char*>(record.data());
  unsigned char* sum = bytes + kv_store::kRecordHeaderBytes - kChecksumBytes;
  crypto_generichash_state state;
  crypto_generichash_init(&state, nullptr, 0, kChecksumBytes);
  crypto_generichash_update(&state, bytes, kv_store::kRecordHeaderBytes - kChecksumBytes);
  crypto_generichash_update(&state, bytes + kv_store::kRecordHeaderBytes,
                            record.size() - kv_store::kRecordHeaderBytes);
  crypto_generichash_final(&state, sum, kChecksumBytes);
  return record;
}

}  // namespace tandem::testing
