#pragma once

#include <cstdint>
#include <string_view>

#include "core/base/status.h"

namespace tandem::frontend {

enum class ErrorCode : uint8_t {
  kInvalidArgument,
  kNotFound,
  kTooLarge,
  kOverloaded,
  kUnavailable,
  kUnimplemented,
  kDeadlineExceeded,
  kCancelled,
  kDamaged,
  kInternal,
};
/// The code as the protocol spells it, e.g. "invalid_argument".
std::string_view ErrorCodeName(ErrorCode code);
/// The code that answers a failed status.
ErrorCode ErrorCodeOf(const absl::Status& status);

}  // namespace tandem::frontend
