#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "core/base/status.h"
#include "frontend/http/api/answer_format.h"
#include "frontend/http/wire/http_message.h"
#include "frontend/protocol/error_code.h"

namespace tandem::frontend {

enum class ApiForm : uint8_t { kOpenAi, kAnthropic };

/// What went wrong, in words of HTTP.
struct ApiError {
  int status = 500;
  std::string code;  // of the project, like "not_found"
  std::string message;
  std::string param = {};                  // the field that is meant; empty: none is
  std::optional<double> retry_after = {};  // seconds
};

/// The HTTP status that an error code is answered with.
int HttpStatusOf(ErrorCode code);

/// `message` begins with the name of a field where it is about one: "top_p: expected ...".
ApiError MakeApiError(ErrorCode code, std::string_view message,
                      std::optional<double> retry_after = std::nullopt);
ApiError MakeApiError(const absl::Status& status);
/// An error that the project has no code for, like 405.
ApiError MakeHttpError(int status, std::string_view message);

/// {"error":{"message","type","param","code"}}, or {"type":"error","error":{"type","message"}}.
AnswerJson ErrorJson(ApiForm form, const ApiError& error);
HttpResponse ErrorResponse(ApiForm form, const ApiError& error);

}  // namespace tandem::frontend
