#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "frontend/chat/text_model.h"
#include "frontend/conversations/conversations.h"
#include "frontend/http/api/answer_format.h"

namespace tandem::frontend {

/// Answers of /v1/responses: a response, or its typed events. `told`: fields of the request that
/// come back with it.
std::unique_ptr<AnswerFormat> MakeResponsesFormat(AnswerHead head, AnswerJson told);

/// What the model reads when a stored response is gone on from: `before`, then `more`. Where `more`
/// begins with instructions of its own, they replace those before.
std::vector<ChatMessage> JoinResponseMessages(std::vector<ChatMessage> before,
                                              std::vector<ChatMessage> more, bool has_instructions);

/// A stored response as it is told later: its id has the time, its last message the answer. What
/// the answer took is told by the process that gave it, and null by others.
AnswerJson StoredResponseJson(const std::string& id, const std::string& model,
                              const Conversation& conversation);

}  // namespace tandem::frontend
