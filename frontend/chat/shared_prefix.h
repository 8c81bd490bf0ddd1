#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "core/base/status.h"
#include "frontend/chat/text_model.h"

namespace tandem::frontend {

/// The tokens that all chats with this system message begin with, whatever the user says. Errors:
/// those of the model; kFailedPrecondition if its template leaves system messages out.
absl::StatusOr<std::vector<int32_t>> TokensOfSystemMessage(const TextModel& model,
                                                           std::string_view system);

/// The tokens that all raw prompts with this beginning share: those of the text, without tokens at
/// its end that the text after it may change. Errors: those of the model.
absl::StatusOr<std::vector<int32_t>> TokensOfText(const TextModel& model, std::string_view text);

}  // namespace tandem::frontend
