#pragma once

#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "fmt/format.h"

/// Failures at run time travel as absl::Status; no exception crosses a folder's border. A message
/// says what was wrong, where, what was expected and found, and what to do.
namespace tandem {

template <typename... Args>
[[nodiscard]] absl::Status InvalidArgument(fmt::format_string<Args...> format, Args&&... args) {
  return absl::InvalidArgumentError(fmt::format(format, std::forward<Args>(args)...));
}
template <typename... Args>
[[nodiscard]] absl::Status NotFound(fmt::format_string<Args...> format, Args&&... args) {
  return absl::NotFoundError(fmt::format(format, std::forward<Args>(args)...));
}
template <typename... Args>
[[nodiscard]] absl::Status OutOfRange(fmt::format_string<Args...> format, Args&&... args) {
  return absl::OutOfRangeError(fmt::format(format, std::forward<Args>(args)...));
}
template <typename... Args>
[[nodiscard]] absl::Status ResourceExhausted(fmt::format_string<Args...> format, Args&&... args) {
  return absl::ResourceExhaustedError(fmt::format(format, std::forward<Args>(args)...));
}
template <typename... Args>
[[nodiscard]] absl::Status FailedPrecondition(fmt::format_string<Args...> format, Args&&... args) {
  return absl::FailedPreconditionError(fmt::format(format, std::forward<Args>(args)...));
}
template <typename... Args>
[[nodiscard]] absl::Status Unavailable(fmt::format_string<Args...> format, Args&&... args) {
  return absl::UnavailableError(fmt::format(format, std::forward<Args>(args)...));
}
template <typename... Args>
[[nodiscard]] absl::Status Unimplemented(fmt::format_string<Args...> format, Args&&... args) {
  return absl::UnimplementedError(fmt::format(format, std::forward<Args>(args)...));
}
template <typename... Args>
[[nodiscard]] absl::Status Internal(fmt::format_string<Args...> format, Args&&... args) {
  return absl::InternalError(fmt::format(format, std::forward<Args>(args)...));
}

/// What is wrong with the contents of a file that somebody named: kDataLoss where `status` blames
/// what was given.
[[nodiscard]] inline absl::Status DamagedInside(const absl::Status& status) {
  const bool contents =
      absl::IsInvalidArgument(status) || absl::IsNotFound(status) || absl::IsOutOfRange(status);
  return contents ? absl::DataLossError(status.message()) : status;
}

/// The message of a status as std::string (Debian's absl::string_view is not std::string_view).
inline std::string Message(const absl::Status& status) { return std::string(status.message()); }

}  // namespace tandem

#define TANDEM_CONCAT_INNER(a, b) a##b
#define TANDEM_CONCAT(a, b) TANDEM_CONCAT_INNER(a, b)

#define TANDEM_RETURN_IF_ERROR(expression)                                \
  do {                                                                    \
    if (absl::Status tandem_status = (expression); !tandem_status.ok()) { \
      return tandem_status;                                               \
    }                                                                     \
  } while (false)

#define TANDEM_ASSIGN_OR_RETURN(target, expression) \
  TANDEM_ASSIGN_OR_RETURN_INNER(TANDEM_CONCAT(tandem_or_, __LINE__), target, expression)
#define TANDEM_ASSIGN_OR_RETURN_INNER(result, target, expression) \
  auto result = (expression);                                     \
  if (!result.ok()) {                                             \
    return result.status();                                       \
  }                                                               \
  target = std::move(result).value()
