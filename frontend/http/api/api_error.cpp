#include "frontend/http/api/api_error.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "frontend/protocol/json_document.h"

namespace tandem::frontend {
namespace {

/// The type by which OpenAI's errors are told apart.
std::string_view OpenAiType(int status) {
  if (status == 401) return "authentication_error";
  if (status == 403) return "permission_error";
  if (status == 404) return "not_found_error";
  if (status == 429) return "rate_limit_error";
  if (status >= 500) return "server_error";
  return "invalid_request_error";
}

std::string_view AnthropicType(int status) {
  if (status == 401) return "authentication_error";
  if (status == 403) return "permission_error";
  if (status == 404) return "not_found_error";
  if (status == 413) return "request_too_large";
  if (status == 429) return "rate_limit_error";
  if (status == 503) return "overloaded_error";
  if (status == 504) return "timeout_error";
  if (status >= 500) return "api_error";
  return "invalid_request_error";
}

/// "messages[0].content" of "messages[0].content: expected ...".
std::string FieldOf(std::string_view message) {
  const size_t colon = message.find(": ");
  if (colon == std::string_view::npos || colon == 0) return "";
  const std::string_view name = message.substr(0, colon);
  const bool fine = std::all_of(name.begin(), name.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           c == '.' || c == '[' || c == ']';
  });
  return fine ? std::string(name) : "";
}

}  // namespace

int HttpStatusOf(ErrorCode code) {
  switch (code) {
    case ErrorCode::kInvalidArgument:
    case ErrorCode::kUnimplemented:
      return 400;
    case ErrorCode::kNotFound:
      return 404;
    case ErrorCode::kTooLarge:
      return 413;
    case ErrorCode::kOverloaded:
      return 429;
    case ErrorCode::kUnavailable:
      return 503;
    case ErrorCode::kDeadlineExceeded:
      return 504;
    case ErrorCode::kCancelled:
      return 499;
    case ErrorCode::kDamaged:
      return 409;
    case ErrorCode::kInternal:
      return 500;
  }
  return 500;
}

ApiError MakeApiError(ErrorCode code, std::string_view message, std::optional<double> retry_after) {
  ApiError error{.status = HttpStatusOf(code),
                 .code = std::string(ErrorCodeName(code)),
                 .message = std::string(message),
                 .retry_after = retry_after};
  if (error.status == 400) error.param = FieldOf(message);
  if ((error.status == 429 || error.status == 503) && !retry_after) error.retry_after = 1;
  return error;
}

ApiError MakeApiError(const absl::Status& status) {
  return MakeApiError(ErrorCodeOf(status), Message(status));
}

ApiError MakeHttpError(int status, std::string_view message) {
  ApiError error{.status = status, .code = "invalid_request", .message = std::string(message)};
  if (status == 401) error.code = "invalid_api_key";
  if (status == 404) error.code = "not_found";
  if (status == 413) error.code = "too_large";
  if (status == 503) {
    error.code = "unavailable";
    error.retry_after = 1;
  }
  if (status == 500) error.code = "internal";
  return error;
}

AnswerJson ErrorJson(ApiForm form, const ApiError& error) {
  if (form == ApiForm::kAnthropic) {
    return {{"type", "error"},
            {"error", {{"type", AnthropicType(error.status)}, {"message", error.message}}}};
  }
  AnswerJson param;
  if (!error.param.empty()) param = error.param;
  return {{"error",
           {{"message", error.message},
            {"type", OpenAiType(error.status)},
            {"param", std::move(param)},
            {"code", error.code}}}};
}

HttpResponse ErrorResponse(ApiForm form, const ApiError& error) {
  HttpResponse response{.status = error.status,
                        .content_type = "application/json",
                        .body = DumpJson(ErrorJson(form, error))};
  if (error.retry_after) {
    const double seconds = std::clamp(std::ceil(*error.retry_after), 1.0, 3600.0);
    response.headers.emplace_back("Retry-After", fmt::format("{}", static_cast<int64_t>(seconds)));
  }
  if (error.status == 401) response.headers.emplace_back("WWW-Authenticate", "Bearer");
  return response;
}

}  // namespace tandem::frontend
