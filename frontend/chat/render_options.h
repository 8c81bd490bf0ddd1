#pragma once

#include <ctime>
#include <nlohmann/json.hpp>
#include <optional>

namespace tandem::frontend {

/// What a rendering takes besides the messages. The defaults are those of a chat.
struct RenderOptions {
  /// Ends with the opening of the assistant's answer.
  bool add_generation_prompt = true;
  /// Ends with the text of the last message, so that the answer goes on from there; then there is
  /// no opening of another one.
  bool continue_final_message = false;
  /// JSON schemas of tools, an array; null if there are none. Built-in forms refuse tools.
  nlohmann::ordered_json tools = nullptr;
  /// More variables for a Jinja template, an object, such as enable_thinking. Built-in forms refuse
  /// them.
  nlohmann::ordered_json variables = nlohmann::ordered_json::object();
  /// What the template's strftime_now tells; the local time if not set.
  std::optional<std::tm> now = std::nullopt;
};

}  // namespace tandem::frontend
