#include "frontend/error_code.h"

#include <cstdlib>
#include <string>

#include "absl/strings/cord.h"

namespace tandem::frontend {
namespace {

constexpr const char* kRetryAfter = "tandem/retry-after-seconds";

}  // namespace

std::string_view ErrorCodeName(ErrorCode code) {
  switch (code) {
    case ErrorCode::kInvalidArgument:
      return "invalid_argument";
    case ErrorCode::kNotFound:
      return "not_found";
    case ErrorCode::kTooLarge:
      return "too_large";
    case ErrorCode::kOverloaded:
      return "overloaded";
    case ErrorCode::kUnavailable:
      return "unavailable";
    case ErrorCode::kUnimplemented:
      return "unimplemented";
    case ErrorCode::kDeadlineExceeded:
      return "deadline_exceeded";
    case ErrorCode::kCancelled:
      return "cancelled";
    case ErrorCode::kInternal:
      return "internal";
  }
  return "internal";
}

ErrorCode ErrorCodeOf(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kOutOfRange:
      return ErrorCode::kInvalidArgument;
    case absl::StatusCode::kNotFound:
      return ErrorCode::kNotFound;
    case absl::StatusCode::kResourceExhausted:
      return ErrorCode::kOverloaded;
    case absl::StatusCode::kUnavailable:
      return ErrorCode::kUnavailable;
    case absl::StatusCode::kUnimplemented:
      return ErrorCode::kUnimplemented;
    case absl::StatusCode::kDeadlineExceeded:
      return ErrorCode::kDeadlineExceeded;
    case absl::StatusCode::kCancelled:
      return ErrorCode::kCancelled;
    default:
      return ErrorCode::kInternal;
  }
}

absl::Status WithRetryAfter(absl::Status status, double seconds) {
  status.SetPayload(kRetryAfter, absl::Cord(fmt::format("{}", seconds)));
  return status;
}

std::optional<double> RetryAfter(const absl::Status& status) {
  const auto payload = status.GetPayload(kRetryAfter);
  if (!payload) return std::nullopt;
  const std::string text(*payload);
  char* end = nullptr;
  const double seconds = std::strtod(text.c_str(), &end);
  if (end == text.c_str() || !(seconds >= 0)) return std::nullopt;
  return seconds;
}

}  // namespace tandem::frontend
