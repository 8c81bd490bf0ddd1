#pragma once

#include <memory>

#include "frontend/chat/text_model.h"
#include "frontend/http/api/answer_format.h"

namespace tandem::frontend {

/// Answers of /v1/chat/completions, and of /v1/completions: a JSON object, or chunks of
/// server-sent events and then [DONE]. `model` must outlive the format.
struct OpenAiAnswerOptions {
  AnswerHead head;
  bool include_usage = false;  // a stream's last chunk has it
  size_t choices = 1;
};
std::unique_ptr<AnswerFormat> MakeChatFormat(OpenAiAnswerOptions options, const TextModel& model);
std::unique_ptr<AnswerFormat> MakeCompletionFormat(OpenAiAnswerOptions options,
                                                   const TextModel& model);

}  // namespace tandem::frontend
