#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace tandem::frontend {

/// The fields that every frame begins with; `id` empty: none.
inline nlohmann::ordered_json FrameHead(std::string_view id, std::string_view type) {
  nlohmann::ordered_json frame = {{"v", 1}};
  if (!id.empty()) frame["id"] = id;
  frame["type"] = type;
  return frame;
}

/// Valid UTF-8 JSON, whatever the strings in it are.
inline std::string DumpFrame(const nlohmann::ordered_json& frame) {
  return frame.dump(-1, ' ', /*ensure_ascii=*/false,
                    nlohmann::ordered_json::error_handler_t::replace);
}

}  // namespace tandem::frontend
