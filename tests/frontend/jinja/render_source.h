#pragma once

#include <ctime>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/base/status.h"
#include "frontend/chat/chat_template.h"

namespace tandem::testing {

using Rendered = absl::StatusOr<std::vector<frontend::TextSegment>>;

/// A template under fixed time, that of tests/golden/templates, "<s>" and "</s>".
inline Rendered Render(const std::string& source, const nlohmann::ordered_json& messages,
                       frontend::RenderOptions options) {
  TANDEM_ASSIGN_OR_RETURN(const frontend::ChatTemplate chat,
                          frontend::ChatTemplate::FromJinja(source, "<s>", "</s>"));
  std::tm now{};
  now.tm_year = 2026 - 1900;
  now.tm_mon = 2;
  now.tm_mday = 4;
  now.tm_hour = 5;
  now.tm_min = 6;
  now.tm_sec = 7;
  now.tm_wday = 3;
  now.tm_yday = 62;
  options.now = now;
  return chat.Render(messages, options);
}

inline Rendered Render(const std::string& source,
                       const nlohmann::ordered_json& variables = nlohmann::ordered_json::object(),
                       const nlohmann::ordered_json& messages = nlohmann::ordered_json::array()) {
  frontend::RenderOptions options;
  options.variables = variables;
  return Render(source, messages, options);
}

inline std::string Error(const Rendered& rendered) {
  return rendered.ok() ? "no error: " + frontend::JoinSegments(*rendered)
                       : Message(rendered.status());
}

}  // namespace tandem::testing
