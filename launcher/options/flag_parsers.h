#pragma once

#include <cstdint>
#include <string>

#include "core/base/status.h"

/// Values of flags that are no plain numbers or texts.
namespace tandem::launcher {

/// "1024", "64KiB", "512M", "2GiB" in bytes. kInvalidArgument otherwise.
absl::StatusOr<int64_t> ParseSize(const std::string& text);
/// "2", "0.5": more than 0, at most a day. kInvalidArgument otherwise.
absl::StatusOr<double> ParseSeconds(const std::string& text);

/// "90", "90s", "15m", "12h", "30d", "8w" in seconds. kInvalidArgument otherwise.
absl::StatusOr<double> ParseAge(const std::string& text);

}  // namespace tandem::launcher
