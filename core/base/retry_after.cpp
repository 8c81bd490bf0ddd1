#include "core/base/retry_after.h"

#include <charconv>
#include <string>

#include "absl/strings/cord.h"

namespace tandem {
namespace {

constexpr char kRetryAfter[] = "tandem/retry-after-seconds";  // a decimal number

}  // namespace

absl::Status WithRetryAfter(absl::Status status, double seconds) {
  status.SetPayload(kRetryAfter, absl::Cord(fmt::format("{}", seconds)));
  return status;
}

std::optional<double> RetryAfter(const absl::Status& status) {
  const auto payload = status.GetPayload(kRetryAfter);
  if (!payload) return std::nullopt;
  const std::string text(*payload);
  double seconds = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), seconds);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return seconds;
}

}  // namespace tandem
