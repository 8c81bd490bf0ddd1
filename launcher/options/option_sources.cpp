#include "launcher/options/option_sources.h"

#include <algorithm>

#include "absl/strings/cord.h"

namespace tandem::launcher {
namespace {

absl::Status WithMessage(const absl::Status& status, const std::string& message) {
  absl::Status other(status.code(), message);
  status.ForEachPayload(
      [&](absl::string_view url, const absl::Cord& payload) { other.SetPayload(url, payload); });
  return other;
}

}  // namespace

std::string OptionSources::Name(const std::string& message) const {
  const size_t end =
      std::min(message.find_first_not_of("abcdefghijklmnopqrstuvwxyz-"), message.size());
  const auto found = elsewhere.find(message.substr(0, end));
  return found == elsewhere.end() ? message : found->second + message.substr(end);
}

absl::Status OptionSources::Name(const absl::Status& status) const {
  return status.ok() ? status : WithMessage(status, Name(Message(status)));
}

absl::Status OptionSources::Blame(const std::string& flag, const absl::Status& status) const {
  const auto found = elsewhere.find(flag);
  const std::string message = Message(status);
  const bool known = found != elsewhere.end() || Given(flag);
  if (status.ok() || !known || message.starts_with("--")) return status;
  return WithMessage(status, (Given(flag) ? flag : found->second) + ": " + message);
}

}  // namespace tandem::launcher
