#include "frontend/text/byte_level.h"

#include <array>

#include "frontend/text/utf8.h"

namespace tandem::frontend {
namespace {

constexpr bool SpellsItself(int byte) {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) ||
         (byte >= 0xAE && byte <= 0xFF);
}

/// Code point of each byte's spelling.
constexpr std::array<char32_t, 256> kSpelling = [] {
  std::array<char32_t, 256> spelling{};
  char32_t next = 0x100;
  for (int byte = 0; byte < 256; ++byte) {
    spelling[static_cast<size_t>(byte)] = SpellsItself(byte) ? static_cast<char32_t>(byte) : next++;
  }
  return spelling;
}();

constexpr char32_t kCodePoints = 0x100 + 68;  // 188 bytes spell themselves

/// The byte that each code point spells, or a value above 255.
constexpr uint16_t kNoByte = 0xFFFF;
constexpr std::array<uint16_t, kCodePoints> kByte = [] {
  std::array<uint16_t, kCodePoints> bytes{};
  bytes.fill(kNoByte);
  for (uint16_t byte = 0; byte < 256; ++byte) bytes[kSpelling[byte]] = byte;
  return bytes;
}();

}  // namespace

std::string ByteLevelSpelling(uint8_t byte) {
  std::string spelling;
  AppendUtf8(kSpelling[byte], spelling);
  return spelling;
}

std::optional<std::string> ByteLevelBytes(std::string_view spelling) {
  std::string bytes;
  while (!spelling.empty()) {
    const Utf8Prefix prefix = ReadUtf8(spelling);
    if (prefix.kind != Utf8Prefix::Kind::kCharacter || prefix.length > 2) return std::nullopt;
    char32_t code_point = static_cast<uint8_t>(spelling[0]);
    if (prefix.length == 2) {
      code_point = (code_point & 0x1FU) << 6U | (static_cast<uint8_t>(spelling[1]) & 0x3FU);
    }
    if (code_point >= kCodePoints || kByte[code_point] == kNoByte) return std::nullopt;
    bytes += static_cast<char>(kByte[code_point]);
    spelling.remove_prefix(prefix.length);
  }
  return bytes;
}

}  // namespace tandem::frontend
