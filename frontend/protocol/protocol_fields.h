#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/status.h"
#include "frontend/protocol/request.h"

/// Reads single fields of a request. A field that is absent or null leaves `out` as it is; one that
/// is malformed or outside its limits is kInvalidArgument, naming the field and what was found.
namespace tandem::frontend {

/// The beginning of a found value, for messages.
std::string Shown(const nlohmann::json& value);

/// Member of an object; none where absent or null.
const nlohmann::json* FindField(const nlohmann::json& object, const char* name);

/// A number with an integral value that fits; JSON has no integers, so 64.0 is one too.
std::optional<int64_t> AsInteger(const nlohmann::json& value);

/// An integer from `least` to `most`.
absl::Status ReadInteger(const nlohmann::json& object, const char* name, int64_t least,
                         int64_t most, std::optional<int64_t>& out);

absl::Status ReadBool(const nlohmann::json& object, const char* name, bool& out);

/// A string of `least` to `most` bytes.
absl::Status ReadText(const nlohmann::json& object, const char* name, int64_t least, int64_t most,
                      std::optional<std::string>& out);

/// The token ids of a list; `name`: of the field, for messages.
absl::Status ReadTokens(const nlohmann::json& list, std::string_view name,
                        std::vector<int32_t>& out);

/// Names of the repetition penalty.
inline constexpr const char* kPenaltyNames[] = {"repetition_penalty", "repeat_penalty"};

/// All fields that `chat` and `complete` share: sampling, samples, scheduling. Those that are not
/// built are CheckFields' to refuse.
absl::Status ReadParams(const nlohmann::json& object, const ProtocolLimits& limits,
                        GenerateRequest& out);

/// How a chat is rendered: add_generation_prompt, continue_final_message, chat_template_kwargs.
absl::Status ReadRendering(const nlohmann::json& object, const ProtocolLimits& limits,
                           RenderOptions& out);

}  // namespace tandem::frontend
