#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <span>
#include <string_view>

#include "core/base/status.h"
#include "frontend/protocol/request.h"

/// The fields of requests that are known, here and to the servers whose requests people bring along
/// (OpenAI's API, vLLM, llama.cpp's server and some others): what would change an answer, and is
/// not built, is refused by name, and never silently dropped. docs/protocol.md lists them.
namespace tandem::frontend {

enum class FieldPlace : uint8_t {
  kEverywhere,  // of every request
  kAnswer,      // of chat and of complete
  kChat,
  kComplete,
  kMessage,  // of a message of a chat
  kOther,    // of the other requests
};

/// One of them.
struct KnownField {
  std::string_view name;
  FieldPlace place;
  /// "read": the protocol's own reader looks at it. "any": it changes no answer. Else the JSON
  /// values, with commas between, at which it asks for nothing; null is always one, and `off`
  /// stands for false, 0 and whatever is empty.
  std::string_view neutral;
  bool beside_penalty = false;  // it says how penalties work, and nothing without one
};
std::span<const KnownField> KnownFields();

/// Looks at all fields of an object. kUnimplemented for the first one that asks for something that
/// is not built, naming it. `place`: not kEverywhere or kAnswer; under kOther nothing is refused.
absl::Status CheckFields(const nlohmann::json& object, FieldPlace place, UnknownFields& unknown);

}  // namespace tandem::frontend
