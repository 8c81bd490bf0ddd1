#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "core/base/status.h"
#include "frontend/chat/text_model.h"

namespace tandem::frontend {

/// The tokens that every chat begins with whose first message is this system message, whatever the
/// user says next. Errors: those of the model, and kFailedPrecondition if its template leaves
/// system messages out.
absl::StatusOr<std::vector<int32_t>> TokensOfSystemMessage(const TextModel& model,
                                                           std::string_view system);

/// The tokens that every raw prompt begins with that begins with this text, and the text itself but
/// for tokens at its end that what follows may change. Errors: those of the model.
absl::StatusOr<std::vector<int32_t>> TokensOfText(const TextModel& model, std::string_view text);

}  // namespace tandem::frontend
