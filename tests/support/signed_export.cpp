#include "tests/support/signed_export.h"

#include <sodium.h>

#include <algorithm>
#include <cstring>

#include "kv_store/export/export_format.h"
#include "tests/support/record_checksum.h"

namespace tandem::testing {
namespace {

constexpr size_t kTokensAt = 16;
constexpr size_t kNameBytesAt = 32;
constexpr size_t kSignerAt = 72;
constexpr size_t kSizeAt = 12;  // in an entry

size_t Load(const std::vector<std::byte>& bytes, size_t at) {
  uint32_t value = 0;
  std::memcpy(&value, bytes.data() + at, sizeof(value));
  return value;
}

void Store(std::vector<std::byte>& bytes, size_t at, uint32_t value) {
  std::memcpy(bytes.data() + at, &value, sizeof(value));
}

}  // namespace

kv_store::SigningKey TestSigningKey() {
  return kv_store::SigningKey(kv_store::SigningKey::Seed{4, 5, 6});
}

std::vector<std::byte> SignedExport(std::vector<std::byte> bytes) {
  using namespace kv_store;
  if (bytes.size() < kExportHeaderBytes + kExportSignatureBytes) return bytes;
  const SigningKey key = TestSigningKey();
  std::memcpy(bytes.data(), "TANDEMPX", 8);
  Store(bytes, 8, kExportVersion);
  Store(bytes, 12, kExportHeaderBytes);
  std::memcpy(bytes.data() + kSignerAt, key.public_key().data(), key.public_key().size());
  const size_t end = bytes.size() - kExportSignatureBytes;
  size_t at = kExportHeaderBytes + Load(bytes, kNameBytesAt) + 4 * Load(bytes, kTokensAt);
  while (at + kExportEntryBytes <= end) {
    const size_t size = Load(bytes, at + kSizeAt);
    at += kExportEntryBytes;
    if (size > end - at) break;
    const auto first = bytes.begin() + static_cast<ptrdiff_t>(at);
    const std::vector<std::byte> record =
        WithRecordChecksum({first, first + static_cast<ptrdiff_t>(size)});
    std::copy(record.begin(), record.end(), first);
    at += size;
  }
  crypto_sign_state state;
  crypto_sign_init(&state);
  crypto_sign_update(&state, reinterpret_cast<const unsigned char*>(bytes.data()), end);
  crypto_sign_final_create(&state, reinterpret_cast<unsigned char*>(bytes.data() + end), nullptr,
                           key.secret().data());
  return bytes;
}

}  // namespace tandem::testing
