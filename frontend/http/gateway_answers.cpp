#include <fmt/format.h>

#include <algorithm>

#include "frontend/http/api/anthropic_answer.h"
#include "frontend/http/api/json_body.h"
#include "frontend/http/api/openai_answer.h"
#include "frontend/http/api/responses_answer.h"
#include "frontend/http/gateway.h"

namespace tandem::frontend {
namespace {

constexpr std::string_view kResponsePrefix = "resp_";

std::string_view IdPrefix(std::string_view route) {
  if (route == "/v1/chat/completions") return "chatcmpl-";
  if (route == "/v1/completions") return "cmpl-";
  return route == "/v1/messages" ? "msg_" : kResponsePrefix;
}

int64_t SecondsNow() {
  return std::chrono::duration_cast<std::chrono::seconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

absl::Status NoSuchResponse(std::string_view id) {
  return NotFound("no response with the id {} is stored for this user", id);
}

}  // namespace

std::string Gateway::ModelNames() const {
  std::string names = model_;
  for (const std::string& alias : options_.aliases) names += ", " + alias;
  return names;
}

absl::Status Gateway::CheckModel(const std::string& model) const {
  const auto& aliases = options_.aliases;
  if (model.empty() || model == model_ ||
      std::find(aliases.begin(), aliases.end(), model) != aliases.end()) {
    return absl::OkStatus();
  }
  return NotFound("the model `{}` does not exist here; this server has: {}", model, ModelNames());
}

void Gateway::HandleAnswer(const CallPointer& call, ReadBody read) {
  ReadInWorker(call, [this, call, read]() -> std::function<void()> {
    auto request =
        std::make_shared<absl::StatusOr<ApiRequest>>([&]() -> absl::StatusOr<ApiRequest> {
          TANDEM_ASSIGN_OR_RETURN(const nlohmann::json body,
                                  ParseBody(call->request.body, options_.limits.depth));
          return read(body, options_.limits);
        }());
    // It is kept until the answer is complete, for its headers.
    std::string().swap(call->request.body);
    return [this, call, request] {
      if (!request->ok()) return RespondError(call, request->status());
      TakeRequest(call, *std::move(*request));
    };
  });
}

void Gateway::TakeRequest(const CallPointer& call, ApiRequest request) {
  if (const absl::Status status = CheckModel(request.model); !status.ok()) {
    return RespondError(call, status);
  }
  call->tenant = request.generates.front().tenant;
  call->stream = request.stream;
  AnswerHead head{.created = SecondsNow(),
                  .model = request.model.empty() ? model_ : request.model,
                  .fingerprint = fingerprint_};
  head.id = answer_ids_.Next(IdPrefix(call->route->path));
  if (request.previous_response) {
    return ContinueResponse(call, std::move(request), std::move(head));
  }
  StartAnswer(call, std::move(request), std::move(head));
}

void Gateway::ContinueResponse(const CallPointer& call, ApiRequest request, AnswerHead head) {
  if (!IsResponseId(*request.previous_response)) {
    return RespondError(call, NoSuchResponse(*request.previous_response));
  }
  const ConversationName name{.tenant = call->tenant, .id = *request.previous_response};
  auto shared = std::make_shared<ApiRequest>(std::move(request));
  backend_.GetConversation(name, [this, thread = thread_, call, shared,
                                  head](const absl::StatusOr<const Conversation*>& found) {
    absl::Status status = found.status();
    if (status.ok() && (*found)->damaged) {
      status = absl::DataLossError("the response's conversation is damaged on disk");
    }
    if (absl::IsNotFound(status)) status = NoSuchResponse(*shared->previous_response);
    if (status.ok() && (*found)->messages.empty()) {
      status = ResourceExhausted(
          "previous_response_id: the response {} is not complete yet; wait for its end",
          *shared->previous_response);
    }
    std::vector<ChatMessage> before;
    if (status.ok()) before = (*found)->messages;
    thread->Post([this, call, shared, head, status, before = std::move(before)]() mutable {
      if (!status.ok()) return RespondError(call, status);
      auto& messages = std::get<std::vector<ChatMessage>>(shared->generates.front().input);
      messages =
          JoinResponseMessages(std::move(before), std::move(messages), shared->has_instructions);
      StartAnswer(call, std::move(*shared), std::move(head));
    });
  });
}

std::unique_ptr<AnswerFormat> Gateway::MakeFormat(const Call& call, const ApiRequest& request,
                                                  AnswerHead head, size_t choices) {
  const std::string_view route = call.route->path;
  const TextModel& model = backend_.model();
  if (route == "/v1/messages") return MakeMessagesFormat(std::move(head));
  if (route == "/v1/responses") return MakeResponsesFormat(std::move(head), request.told);
  OpenAiAnswerOptions options{
      .head = std::move(head), .include_usage = request.include_usage, .choices = choices};
  return route == "/v1/completions" ? MakeCompletionFormat(std::move(options), model)
                                    : MakeChatFormat(std::move(options), model);
}

void Gateway::StartAnswer(const CallPointer& call, ApiRequest request, AnswerHead head) {
  const uint64_t client = call->reply->connection();
  if (call->reply->gone()) {
    return Log(*call, {.status = 499, .error = std::string(kClientGone)}, /*answer=*/true);
  }
  if (request.store && !request.generates.front().conversation) {
    request.generates.front().conversation = head.id;
  }
  ExchangeOptions options{.form = call->route->form,
                          .stream = request.stream,
                          .parts = request.generates.size(),
                          .choices = static_cast<size_t>(request.generates.front().samples),
                          .budget_bytes = options_.client_budget_bytes,
                          .client = client,
                          .ids = {}};
  for (size_t part = 0; part < options.parts; ++part) {
    options.ids.push_back(fmt::format("{}-{}", head.id, part));
  }
  const std::vector<std::string> ids = options.ids;
  const std::string comment = request.stream ? std::string(kStreamComment) : "";
  AnswerExchange::Callbacks callbacks{
      .respond =
          [this, call](HttpResponse response) {
            Decorate(call->request, call->request_id, response);
            call->reply->Send(std::move(response));
          },
      .begin =
          [this, call, comment](HttpResponse response) {
            Decorate(call->request, call->request_id, response);
            call->reply->Begin(std::move(response), comment);
          },
      .ended = [this, call](const AnswerOutcome& outcome) { Log(*call, outcome, true); }};
  auto format = MakeFormat(*call, request, std::move(head), options.parts * options.choices);
  const auto exchange =
      std::make_shared<AnswerExchange>(std::move(options), std::move(format), call->reply, thread_,
                                       backend_, metrics_, *reader_, std::move(callbacks));
  exchange->WatchClient();
  for (size_t part = 0; part < ids.size(); ++part) {
    Request one{.id = ids[part], .body = std::move(request.generates[part])};
    if (part == 0) one.unknown_fields = std::move(request.unknown_fields);
    backend_.Start(client, std::move(one), exchange->EventsOf(part));
  }
}

void Gateway::HandleStoredResponse(const CallPointer& call) {
  std::string id = call->request.path.substr(call->route->path.size() - 1);
  if (id.ends_with('/')) id.pop_back();
  if (!IsResponseId(id)) return RespondError(call, NoSuchResponse(id));
  std::string tenant = call->request.Query("user");
  if (tenant.size() > static_cast<size_t>(options_.limits.tenant_bytes)) {
    return RespondError(call, NoSuchResponse(id));
  }
  call->tenant = std::move(tenant);
  const ConversationName name{.tenant = call->tenant, .id = id};
  if (call->request.method == "DELETE") {
    return backend_.DeleteConversation(
        name, [this, thread = thread_, call, id](const absl::Status& status) {
          thread->Post([this, call, id, status] {
            if (absl::IsNotFound(status)) return RespondError(call, NoSuchResponse(id));
            if (!status.ok()) return RespondError(call, status);
            RespondJson(call, {{"id", id}, {"object", "response"}, {"deleted", true}});
          });
        });
  }
  backend_.GetConversation(
      name, [this, thread = thread_, call, id](const absl::StatusOr<const Conversation*>& found) {
        absl::StatusOr<AnswerJson> json = NoSuchResponse(id);
        if (found.ok() && !(*found)->messages.empty()) {
          json = StoredResponseJson(id, model_, **found);
        } else if (!found.ok() && !absl::IsNotFound(found.status())) {
          json = found.status();
        }
        thread->Post([this, call, json = std::move(json)] {
          json.ok() ? RespondJson(call, *json) : RespondError(call, json.status());
        });
      });
}

}  // namespace tandem::frontend
