#pragma once

#include <charconv>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "core/base/status.h"

/// Values of flags that are no plain numbers or texts.
namespace tandem::launcher {

/// "12", "-3", "0.5", "1e-3": a decimal number that Number holds, and nothing beside it; none
/// otherwise.
template <typename Number>
std::optional<Number> ParseNumber(std::string_view text) {
  Number number{};
  const char* end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, number);
  if (error != std::errc() || rest != end) return std::nullopt;
  return number;
}

/// "1024", "64KiB", "512M", "1.5 GiB", "1PiB" in bytes. kInvalidArgument otherwise.
absl::StatusOr<int64_t> ParseSize(const std::string& text);
/// "2", "0.5": from 0.01 to a day. kInvalidArgument otherwise.
absl::StatusOr<double> ParseSeconds(const std::string& text);

/// "90", "90s", "15m", "12h", "30d", "8w" in seconds. kInvalidArgument otherwise.
absl::StatusOr<double> ParseAge(const std::string& text);

}  // namespace tandem::launcher
