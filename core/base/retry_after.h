#pragma once

#include <optional>

#include "core/base/status.h"

namespace tandem {

/// When to try again what failed for now only: a payload of the status, in seconds.
absl::Status WithRetryAfter(absl::Status status, double seconds);
std::optional<double> RetryAfter(const absl::Status& status);

}  // namespace tandem
