#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "fmt/format.h"

namespace tandem::testing {

inline std::string Hex(std::span<const std::byte> bytes) {
  std::string text;
  for (const std::byte byte : bytes) text += fmt::format("{:02x}", std::to_integer<int>(byte));
  return text;
}

inline std::vector<std::byte> FromHex(std::string_view text) {
  const auto digit = [&](size_t i) { return text[i] <= '9' ? text[i] - '0' : text[i] - 'a' + 10; };
  std::vector<std::byte> bytes(text.size() / 2);
  for (size_t i = 0; i < bytes.size(); ++i) {
    bytes[i] = static_cast<std::byte>(digit(2 * i) << 4 | digit(2 * i + 1));
  }
  return bytes;
}

/// first, first + 1, ...: so that bytes in another order are seen.
template <typename Array>
Array Counted(uint8_t first) {
  Array bytes{};
  for (uint8_t& byte : bytes) byte = first++;
  return bytes;
}

}  // namespace tandem::testing
