#include "kv_store/base/hex.h"

#include <fmt/format.h>
#include <sodium.h>

namespace tandem::kv_store {

std::string Hex(std::span<const uint8_t> bytes) {
  std::string text;
  for (const uint8_t byte : bytes) text += fmt::format("{:02x}", byte);
  return text;
}

std::optional<std::vector<uint8_t>> Unhex(std::string_view text) {
  std::vector<uint8_t> bytes(text.size() / 2);
  size_t written = 0;
  const char* end = nullptr;
  if (bytes.empty() ||
      sodium_hex2bin(bytes.data(), bytes.size(), text.data(), text.size(), nullptr, &written,
                     &end) != 0 ||
      end != text.data() + text.size() || written != bytes.size()) {
    return std::nullopt;
  }
  return bytes;
}

}  // namespace tandem::kv_store
