#include <cstdlib>

#include "kv_store/journal/journal_fields.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tandem::kv_store;
  const std::span bytes(reinterpret_cast<const std::byte*>(data), size);
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto position = DecodePosition(text);
  if (position.ok() && EncodePosition(*position) != text) std::abort();
  const auto entry = tandem::core::Decode<JournalEntry>("journal", bytes);
  if (!entry.ok()) return 0;
  // Whatever is read is a position behind itself, and comes back as it was.
  if (!entry->at.Contains(entry->at)) std::abort();
  const auto again = tandem::core::Decode<JournalEntry>("journal", tandem::core::Encode(*entry));
  if (!again.ok() || *again != *entry) std::abort();
  return 0;
}
