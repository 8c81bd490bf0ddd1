#include <cstdlib>

#include "kv_store/journal/journal.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tandem::kv_store;
  const std::span bytes(reinterpret_cast<const std::byte*>(data), size);
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto position = DecodePosition(text);
  if (position.ok() && EncodePosition(*position) != text) std::abort();
  tandem::core::WireReader reader("journal", bytes);
  const JournalEntry entry = ReadEntry(reader);
  if (!reader.Finish().ok()) return 0;
  // Whatever is read is a position behind itself, and comes back as it was.
  if (!entry.at.Contains(entry.at)) std::abort();
  tandem::core::WireWriter writer;
  WriteEntry(entry, writer);
  tandem::core::WireReader again("journal", writer.bytes());
  if (ReadEntry(again) != entry || !again.Finish().ok()) std::abort();
  return 0;
}
