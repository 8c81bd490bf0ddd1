#pragma once

#include <nlohmann/json.hpp>
#include <string_view>

namespace tandem::frontend {

/// The fields that every frame begins with; `id` empty: none.
inline nlohmann::ordered_json FrameHead(std::string_view id, std::string_view type) {
  nlohmann::ordered_json frame = {{"v", 1}};
  if (!id.empty()) frame["id"] = id;
  frame["type"] = type;
  return frame;
}

}  // namespace tandem::frontend
