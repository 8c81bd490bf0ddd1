#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

/// Bytes as people and file names have them: two hexadecimal digits each.
namespace tandem::kv_store {

std::string Hex(std::span<const uint8_t> bytes);

/// Nothing for a text that is not digits all through, or has none.
std::optional<std::vector<uint8_t>> Unhex(std::string_view text);

/// Nothing for a text of another length, too.
template <size_t kBytes>
std::optional<std::array<uint8_t, kBytes>> UnhexArray(std::string_view text) {
  const auto bytes = Unhex(text);
  if (!bytes || bytes->size() != kBytes) return std::nullopt;
  std::array<uint8_t, kBytes> array;
  std::copy(bytes->begin(), bytes->end(), array.begin());
  return array;
}

}  // namespace tandem::kv_store
