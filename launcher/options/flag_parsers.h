#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "core/base/status.h"

/// Values of flags that CLI11 does not read itself. A malformed value is a CLI::ValidationError
/// that names it and what is expected.
namespace tandem::launcher {

/// "1024", "64KiB", "512M", "2GiB" in bytes. kInvalidArgument otherwise.
absl::StatusOr<int64_t> ParseSize(const std::string& text);
/// "1,2,3", spaces allowed, as ids; also the JSON that `tandem tokenize --json` writes.
/// kInvalidArgument naming the bad entry.
absl::StatusOr<std::vector<int32_t>> ParseTokens(const std::string& text);
/// "2", "0.5": more than 0, at most a day. kInvalidArgument otherwise.
absl::StatusOr<double> ParseSeconds(const std::string& text);

/// "90", "90s", "15m", "12h", "30d", "8w" in seconds. kInvalidArgument otherwise.
absl::StatusOr<double> ParseAge(const std::string& text);

std::function<void(const std::string&)> AgeParser(std::optional<double>& target);
std::function<void(const std::string&)> OptionalSizeParser(std::optional<int64_t>& target);
std::function<void(const std::string&)> SizeParser(int64_t& target);
std::function<void(const std::string&)> SizesParser(std::vector<int64_t>& target);
std::function<void(const std::string&)> TokensParser(std::vector<int32_t>& target, bool& given);
/// Of a flag whose value may be left out: `without` stands for it then.
std::function<void(const std::string&)> SecondsParser(std::optional<double>& target,
                                                      double without);

}  // namespace tandem::launcher
