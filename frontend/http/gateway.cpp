#include "frontend/http/gateway.h"

#include <fmt/format.h>
#include <sodium.h>

#include <algorithm>
#include <array>
#include <exception>

#include "frontend/protocol/json_document.h"

namespace tandem::frontend {
namespace {

constexpr GatewayRoute kRoutes[] = {
    {"/v1/chat/completions", "POST", "a chat's answer, whole or streamed"},
    {"/v1/completions", "POST", "what follows raw texts or token ids, whole or streamed"},
    {"/v1/responses", "POST", "OpenAI's newer form of a chat; responses are kept"},
    {"/v1/responses/*", "GET, HEAD, DELETE",
     "a stored response, by its id; of a tenant with `?user=NAME`"},
    {"/v1/messages", "POST", "Anthropic's form of a chat", false, ApiForm::kAnthropic},
    {"/v1/messages/count_tokens", "POST", "the tokens that such a request has", false,
     ApiForm::kAnthropic},
    {"/v1/models", "GET, HEAD", "the served model and its aliases"},
    {"/v1/models/*", "GET, HEAD", "one of them"},
    {"/tokenize", "POST",
     "`prompt` or `content` (a text), or `messages`: `tokens`, `count`, `max_model_len`; with "
     "`with_pieces` each token with its text"},
    {"/detokenize", "POST", "`tokens`: their text, as `prompt` and `content`"},
    {"/apply-template", "POST", "`messages`: the text that the model reads, as `prompt`"},
    {"/health", "GET, HEAD", "200 while the process answers", true},
    {"/ready", "GET, HEAD",
     "200 where a token went through every rank in the last 5 s, or one does within 2 s; else 503",
     true},
    {"/metrics", "GET, HEAD", "figures for Prometheus"},
    {"/version", "GET, HEAD", "the program's version"},
};

bool Matches(const GatewayRoute& route, std::string_view path) {
  if (!route.path.ends_with("/*")) return path == route.path;
  const std::string_view beginning = route.path.substr(0, route.path.size() - 1);
  return path.size() > beginning.size() && path.starts_with(beginning) &&
         path != "/v1/messages/count_tokens";
}

const GatewayRoute* FindRoute(std::string_view path) {
  // Some clients are told an address that ends in a slash.
  if (path.size() > 1 && path.ends_with('/')) path.remove_suffix(1);
  const auto found = std::find_if(std::begin(kRoutes), std::end(kRoutes),
                                  [&](const auto& route) { return Matches(route, path); });
  return found == std::end(kRoutes) ? nullptr : found;
}

bool HasMethod(std::string_view methods, std::string_view method) {
  for (size_t at = 0; at < methods.size();) {
    const size_t end = std::min(methods.find(", ", at), methods.size());
    if (methods.substr(at, end - at) == method) return true;
    at = end + 2;
  }
  return false;
}

/// For the log, which is not the client's to write into.
std::string_view KnownMethod(std::string_view method) {
  constexpr std::string_view kMethods[] = {"GET",   "HEAD",   "POST",   "PUT",
                                           "PATCH", "DELETE", "OPTIONS"};
  const auto* const found = std::find(std::begin(kMethods), std::end(kMethods), method);
  return found == std::end(kMethods) ? "-" : *found;
}

/// "application/json", or one of its kin, whatever stands behind a semicolon.
bool IsJson(std::string_view type) {
  type = type.substr(0, type.find(';'));
  while (type.ends_with(' ')) type.remove_suffix(1);
  constexpr std::string_view kKin = "+json";
  return EqualIgnoringCase(type, "application/json") ||
         (type.size() > kKin.size() && type.starts_with("application/") && type.ends_with(kKin));
}

/// The client's own where it may stand in a header and a line of the log, else a new one.
std::string RequestIdOf(const HttpRequest& request) {
  constexpr size_t kMost = 128;
  const std::string_view id = request.Header("x-request-id");
  const bool fine = !id.empty() && id.size() <= kMost &&
                    std::all_of(id.begin(), id.end(), [](char c) { return c > ' ' && c <= '~'; });
  return fine ? std::string(id) : "req_" + RandomHex(24);
}

int64_t Now() {
  return std::chrono::duration_cast<std::chrono::seconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

std::string FingerprintOf(const std::string& model, const std::string& version) {
  const std::string text = model + '\n' + version;
  std::array<unsigned char, 16> hash{};
  crypto_generichash(hash.data(), hash.size(), reinterpret_cast<const unsigned char*>(text.data()),
                     text.size(), nullptr, 0);
  return fmt::format("fp_{:02x}{:02x}{:02x}{:02x}{:02x}", hash[0], hash[1], hash[2], hash[3],
                     hash[4]);
}

}  // namespace

std::span<const GatewayRoute> GatewayRoutes() { return kRoutes; }

std::string GatewayRouteRows() {
  std::string rows;
  for (const GatewayRoute& route : kRoutes) {
    rows += fmt::format("| `{}` | {} | {} |\n", route.path, route.methods, route.does);
  }
  return rows;
}

absl::StatusOr<std::unique_ptr<Gateway>> Gateway::Create(GatewayOptions options,
                                                         GatewayBackend& backend) {
  if (sodium_init() < 0) return Internal("libsodium cannot be initialized on this machine");
  std::unique_ptr<Gateway> gateway(new Gateway(std::move(options), backend));
  TANDEM_ASSIGN_OR_RETURN(gateway->server_, HttpServer::Create(gateway->options_.http, *gateway));
  HttpServer& server = *gateway->server_;
  HostGuardOptions guard = gateway->options_.guard;
  guard.loopback = server.loopback();
  gateway->guard_.emplace(guard);
  gateway->thread_ = std::make_shared<GatewayThread>(server);
  gateway->readiness_ = std::make_shared<Readiness>(gateway->options_.readiness, backend, server,
                                                    gateway->thread_, gateway->metrics_);
  gateway->reader_.emplace(gateway->options_.text_bytes);
  gateway->tokenizer_.emplace(gateway->options_.text_bytes);
  return gateway;
}

Gateway::Gateway(GatewayOptions options, GatewayBackend& backend)
    : options_(std::move(options)),
      backend_(backend),
      model_(options_.model.empty() ? backend.model().name() : options_.model),
      fingerprint_(FingerprintOf(model_, options_.version)),
      created_(Now()),
      metrics_(std::make_shared<GatewayMetrics>(model_)) {}

Gateway::~Gateway() {
  if (thread_ != nullptr) thread_->Leave();
}

HttpStatus Gateway::Status() const {
  return {.address = server_->address(),
          .connections = server_->connections(),
          .requests = metrics_->requests()};
}

HttpResponse Gateway::Malformed(int status, std::string_view message, const HttpRequest& request,
                                const std::string& peer) {
  const ApiError error = MakeHttpError(status, message);
  Call call{.peer = peer, .route = FindRoute(request.path), .request_id = RequestIdOf(request)};
  call.request.method = request.method;
  const ApiForm form = call.route == nullptr ? ApiForm::kOpenAi : call.route->form;
  HttpResponse response = ErrorResponse(form, error);
  Decorate(request, call.request_id, response);
  Log(call, {.status = status, .error = error.code}, /*answer=*/false);
  return response;
}

std::optional<Gateway::EarlyAnswer> Gateway::EarlyAnswerTo(const HttpRequest& request,
                                                           const GatewayRoute* route) {
  const ApiForm form = route == nullptr ? ApiForm::kOpenAi : route->form;
  const auto refuse = [&](int status, std::string_view message) {
    const ApiError error = MakeHttpError(status, message);
    return EarlyAnswer{.response = ErrorResponse(form, error), .error = error.code};
  };
  if (const auto refusal = guard_->CheckOrigin(request)) {
    return refuse(refusal->status, refusal->message);
  }
  const std::string_view methods = route == nullptr ? "GET, HEAD, POST" : route->methods;
  if (HostGuard::IsPreflight(request)) {
    return EarlyAnswer{guard_->Preflight(request, fmt::format("{}, OPTIONS", methods))};
  }
  if (request.method == "OPTIONS") {
    HttpResponse response{.status = 204};
    response.headers.emplace_back("Allow", fmt::format("{}, OPTIONS", methods));
    return EarlyAnswer{std::move(response)};
  }
  if (route == nullptr || !route->open) {
    if (const auto refusal = guard_->CheckKey(request)) {
      return refuse(refusal->status, refusal->message);
    }
  }
  if (route == nullptr) {
    return refuse(404, "there is no such route; docs/http.md lists those that are there");
  }
  if (!HasMethod(methods, request.method)) {
    EarlyAnswer answer =
        refuse(405, fmt::format("this route takes {} and not another method", methods));
    answer.response.headers.emplace_back("Allow", fmt::format("{}, OPTIONS", methods));
    return answer;
  }
  if (request.method == "POST" && !IsJson(request.Header("content-type"))) {
    return refuse(415, "Content-Type: expected application/json");
  }
  return std::nullopt;
}

std::optional<HttpResponse> Gateway::CheckHead(const HttpRequest& request,
                                               const std::string& peer) {
  const GatewayRoute* route = FindRoute(request.path);
  std::optional<EarlyAnswer> answer = EarlyAnswerTo(request, route);
  if (!answer) return std::nullopt;
  Call call{.peer = peer, .route = route, .request_id = RequestIdOf(request)};
  call.request.method = request.method;
  Decorate(request, call.request_id, answer->response);
  Log(call, {.status = answer->response.status, .error = std::move(answer->error)},
      /*answer=*/false);
  return std::move(answer->response);
}

void Gateway::Decorate(const HttpRequest& request, const std::string& request_id,
                       HttpResponse& response) {
  response.headers.emplace_back("X-Request-Id", request_id);
  response.headers.emplace_back("Request-Id", request_id);
  response.headers.emplace_back("X-Content-Type-Options", "nosniff");
  for (auto& header : guard_->CorsHeaders(request)) response.headers.push_back(std::move(header));
}

void Gateway::Log(const Call& call, const AnswerOutcome& outcome, bool answer) {
  const double seconds = std::chrono::duration<double>(Clock::now() - call.begin).count();
  const std::string_view route = call.route == nullptr ? "-" : call.route->path;
  metrics_->CountRequest(route, outcome.status);
  if (!outcome.error.empty()) metrics_->CountError(outcome.error);
  const bool complete = answer && !outcome.reason.empty();
  if (complete) metrics_->ObserveAnswer(outcome.reason, outcome.usage, seconds);
  if (!options_.access_log) return;
  AccessRecord record{.request_id = call.request_id,
                      .peer = call.peer,
                      .method = KnownMethod(call.request.method),
                      .route = route,
                      .status = outcome.status,
                      .error = outcome.error,
                      .tenant = call.tenant,
                      .stream = call.stream,
                      .seconds = seconds,
                      .first_token_seconds = outcome.first_token_seconds,
                      .finish_reason = outcome.reason,
                      .usage = {}};
  if (complete) record.usage = outcome.usage;
  options_.access_log(AccessLine(record));
}

void Gateway::Respond(const CallPointer& call, HttpResponse response, std::string error) {
  Decorate(call->request, call->request_id, response);
  Log(*call, {.status = response.status, .error = std::move(error)}, /*answer=*/false);
  call->reply->Send(std::move(response));
}

void Gateway::RespondJson(const CallPointer& call, const AnswerJson& json) {
  Respond(call, {.content_type = "application/json", .body = DumpJson(json)});
}

void Gateway::RespondError(const CallPointer& call, const ApiError& error) {
  Respond(call, ErrorResponse(call->route->form, error), error.code);
}

void Gateway::RespondError(const CallPointer& call, const absl::Status& status) {
  RespondError(call, MakeApiError(status));
}

void Gateway::OnThread(const CallPointer& call, std::function<void()> function) {
  thread_->Post([this, call, function = std::move(function)] {
    try {
      function();
    } catch (const std::exception& exception) {
      RespondError(call, Internal("the request failed: {}", exception.what()));
    }
  });
}

void Gateway::ReadInWorker(const CallPointer& call, TextWork work) {
  constexpr size_t kLeast = size_t{16} << 10;  // the worst ones take about 2 ms
  InWorker(*reader_, kLeast, call, std::move(work));
}

void Gateway::TokenizeInWorker(const CallPointer& call, TextWork work) {
  constexpr size_t kLeast = size_t{2} << 10;  // the worst texts take 0.3 ms a KiB
  InWorker(*tokenizer_, kLeast, call, std::move(work));
}

void Gateway::InWorker(TextWorker& worker, size_t least, const CallPointer& call, TextWork work) {
  if (call->request.body.size() <= least) return work()();
  const auto bytes = static_cast<int64_t>(call->request.body.size());
  const uint64_t client = call->reply->connection();
  const bool taken = worker.Do(client, bytes, [this, call, work = std::move(work)] {
    try {
      OnThread(call, work());
    } catch (const std::exception& exception) {
      OnThread(call, [this, call, what = std::string(exception.what())] {
        RespondError(call, Internal("the request failed: {}", what));
      });
    }
  });
  if (!taken) {
    RespondError(call, MakeApiError(ErrorCode::kOverloaded,
                                    "too many long texts wait to be read: try again later"));
  }
}

void Gateway::Handle(HttpRequest request, std::shared_ptr<HttpReply> reply) {
  const auto call = std::make_shared<Call>();
  call->route = FindRoute(request.path);
  call->request_id = RequestIdOf(request);
  call->request = std::move(request);
  call->reply = std::move(reply);
  call->peer = call->reply->peer();
  try {
    Dispatch(call);
  } catch (const std::exception& exception) {
    RespondError(call, Internal("the request failed: {}", exception.what()));
  }
}

void Gateway::Dispatch(const CallPointer& call) {
  const std::string_view route = call->route->path;
  if (route == "/health") return RespondJson(call, {{"status", "ok"}});
  if (route == "/ready") return HandleReady(call);
  if (route == "/version") return RespondJson(call, {{"version", options_.version}});
  if (route == "/metrics") return HandleMetrics(call);
  if (route == "/v1/models" || route == "/v1/models/*") return HandleModels(call);
  if (route == "/tokenize") return HandleTokenize(call);
  if (route == "/detokenize") return HandleDetokenize(call);
  if (route == "/apply-template") return HandleApplyTemplate(call);
  if (route == "/v1/messages/count_tokens") return HandleCountTokens(call);
  if (route == "/v1/responses/*") return HandleStoredResponse(call);
  if (!backend_.serves()) {
    return RespondError(call, MakeApiError(ErrorCode::kUnavailable,
                                           "this server is shutting down, or its engine has "
                                           "failed"));
  }
  if (route == "/v1/chat/completions") return HandleAnswer(call, ReadChatRequest);
  if (route == "/v1/completions") return HandleAnswer(call, ReadCompletionRequest);
  if (route == "/v1/responses") return HandleAnswer(call, ReadResponsesRequest);
  return HandleAnswer(call, [](const nlohmann::json& body, const ProtocolLimits& limits) {
    return ReadMessagesRequest(body, limits);
  });
}

}  // namespace tandem::frontend
