#pragma once

#include <functional>
#include <string_view>

#include "core/base/status.h"

namespace tandem::core {

/// Called now and then by long work, which ends with the error that it gives; fraction in [0, 1].
/// May be empty.
using Progress = std::function<absl::Status(double fraction, std::string_view what)>;

}  // namespace tandem::core
