#pragma once

#include <memory>

#include "frontend/http/api/answer_format.h"

namespace tandem::frontend {

/// Answers of Anthropic's /v1/messages: a message, or its typed events.
std::unique_ptr<AnswerFormat> MakeMessagesFormat(AnswerHead head);

}  // namespace tandem::frontend
