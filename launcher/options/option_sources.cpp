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
  const std::string name = NameOf(message.substr(0, end));
  return name.empty() ? message : name + message.substr(end);
}

absl::Status OptionSources::Name(const absl::Status& status) const {
  return status.ok() ? status : WithMessage(status, Name(Message(status)));
}

absl::Status OptionSources::Blame(const std::string& flag, const absl::Status& status) const {
  const std::string name = NameOf(flag);
  const std::string message = Message(status);
  if (status.ok() || name.empty() || message.starts_with("--")) return status;
  return WithMessage(status, name + ": " + message);
}

std::string OptionSources::NameOf(const std::string& flag) const {
  if (const auto typed = given.find(flag); typed != given.end()) return typed->second;
  const auto found = elsewhere.find(flag);
  return found == elsewhere.end() ? "" : found->second;
}

}  // namespace tandem::launcher
