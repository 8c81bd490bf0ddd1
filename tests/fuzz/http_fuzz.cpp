#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "frontend/http/api/api_error.h"
#include "frontend/http/api/api_request.h"
#include "frontend/http/api/json_body.h"
#include "frontend/http/wire/host_guard.h"
#include "frontend/http/wire/request_reader.h"
#include "frontend/protocol/json_document.h"

namespace {

using namespace tandem::frontend;

void Check(bool holds) {
  if (!holds) std::abort();
}

/// What is read does not depend on the pieces in which it comes, and stays within its limits.
void ReadHttp(std::string_view bytes, size_t step) {
  const RequestLimits limits{.header_bytes = 512, .body_bytes = 1024};
  RequestReader reader(limits);
  std::string waiting;
  while (!bytes.empty() && reader.state() != RequestReader::State::kDone &&
         reader.state() != RequestReader::State::kRefused) {
    waiting += bytes.substr(0, step);
    bytes.remove_prefix(std::min(step, bytes.size()));
    while (reader.state() == RequestReader::State::kHead ||
           reader.state() == RequestReader::State::kBody) {
      const size_t taken = reader.Take(waiting);
      Check(taken <= waiting.size());
      waiting.erase(0, taken);
      if (taken == 0) break;
    }
    Check(reader.request().body.size() <= static_cast<size_t>(limits.body_bytes));
    const bool reads = reader.state() == RequestReader::State::kHead ||
                       reader.state() == RequestReader::State::kBody;
    Check(!reads || waiting.size() <= static_cast<size_t>(limits.header_bytes) + step);
  }
  if (reader.state() == RequestReader::State::kRefused) {
    Check(reader.status() >= 400 && !reader.message().empty());
    const HttpResponse response =
        ErrorResponse(ApiForm::kOpenAi, MakeHttpError(reader.status(), reader.message()));
    Check(nlohmann::json::accept(response.body));
  } else if (reader.state() != RequestReader::State::kHead) {
    const HttpRequest& request = reader.request();
    Check(request.path.starts_with('/') && request.path.find('\0') == std::string::npos);
    const HostGuard guard({.origins = {"https://chat.example"}, .keys = {"k"}});
    guard.CheckOrigin(request);
    guard.CheckKey(request);
    for (const auto& [name, value] : guard.CorsHeaders(request)) {
      Check(value.find('\n') == std::string::npos && value.find('\r') == std::string::npos);
    }
    request.Query("user");
  }
}

void ReadJson(std::string_view body, uint8_t kind) {
  const ProtocolLimits limits;
  const auto document = ParseBody(body, limits.depth);
  if (!document.ok()) {
    Check(!tandem::Message(document.status()).empty());
    return;
  }
  const auto read = [&]() -> absl::StatusOr<ApiRequest> {
    switch (kind % 4) {
      case 0:
        return ReadChatRequest(*document, limits);
      case 1:
        return ReadCompletionRequest(*document, limits);
      case 2:
        return ReadMessagesRequest(*document, limits);
      default:
        return ReadResponsesRequest(*document, limits);
    }
  }();
  if (!read.ok()) {
    for (const ApiForm form : {ApiForm::kOpenAi, ApiForm::kAnthropic}) {
      const HttpResponse response = ErrorResponse(form, MakeApiError(read.status()));
      Check(response.status == 400 && nlohmann::json::accept(response.body));
    }
    return;
  }
  Check(!read->generates.empty());
  for (const GenerateRequest& generate : read->generates) {
    Check(generate.samples >= 1 && generate.samples <= limits.samples);
    Check(generate.params.logprobs.value_or(0) <= limits.logprobs);
    Check(generate.tenant.size() <= static_cast<size_t>(limits.tenant_bytes));
    Check(generate.conversation.value_or("").size() <=
          static_cast<size_t>(limits.conversation_bytes));
    const auto* messages = std::get_if<0>(&generate.input);
    Check(messages == nullptr || !messages->empty());
  }
  Check(nlohmann::json::accept(DumpJson(read->told)));
}

}  // namespace

/// Bytes of a client become a request or a refusal, and a body becomes what is asked of the
/// service, within its limits, or a refusal that is valid JSON.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  const std::string_view rest(reinterpret_cast<const char*>(data) + 2, size - 2);
  if (data[0] % 2 == 0) {
    ReadHttp(rest, data[1] == 0 ? size : data[1]);
  } else {
    ReadJson(rest, data[1]);
  }
  return 0;
}
