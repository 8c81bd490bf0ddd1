#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/status.h"
#include "frontend/http/access_log.h"
#include "frontend/http/answer_exchange.h"
#include "frontend/http/api/answer_format.h"
#include "frontend/http/api/answer_ids.h"
#include "frontend/http/api/api_error.h"
#include "frontend/http/api/api_request.h"
#include "frontend/http/gateway_backend.h"
#include "frontend/http/gateway_metrics.h"
#include "frontend/http/readiness.h"
#include "frontend/http/text_worker.h"
#include "frontend/http/wire/host_guard.h"
#include "frontend/http/wire/http_server.h"
#include "frontend/service/service_status.h"

namespace tandem::frontend {

struct GatewayOptions {
  HttpServerOptions http;
  HostGuardOptions guard;  // its `loopback` follows from the address
  ProtocolLimits limits;
  std::string model;                               // the served name; empty: the model's own
  std::vector<std::string> aliases;                // other names of it
  std::string version = "0";                       // of the program
  int64_t client_budget_bytes = int64_t{4} << 20;  // of answers that wait for one client
  int64_t text_bytes = int64_t{64}
                       << 20;  // of requests that wait to be read, and of texts to be tokenized
  ReadinessOptions readiness;
  /// Takes one line of JSON for each request, from the gateway's thread; may be empty.
  std::function<void(const std::string& line)> access_log;
};

/// A way that requests come: what docs/http.md lists.
struct GatewayRoute {
  std::string_view path;            // ends with "/*" where a name stands behind it
  std::string_view methods;         // "GET, HEAD"
  std::string_view does;            // for docs/http.md
  bool open = false;                // without an API key
  ApiForm form = ApiForm::kOpenAi;  // of its errors
};
std::span<const GatewayRoute> GatewayRoutes();
/// The rows of the table of routes in docs/http.md, each ended by a newline.
std::string GatewayRouteRows();

/// The OpenAI-compatible HTTP gateway. docs/http.md says what it takes and gives.
///
/// One thread, the one in Run, has all sockets; the backend's threads hand events over. Whatever a
/// client sends or fails to read, it affects that client only. Thread safety: Run from one thread,
/// Stop from any.
class Gateway final : private HttpHandler {
 public:
  /// Listens. The backend must outlive the gateway. Errors: HttpServer::Create.
  static absl::StatusOr<std::unique_ptr<Gateway>> Create(GatewayOptions options,
                                                         GatewayBackend& backend);
  ~Gateway() override;
  Gateway(const Gateway&) = delete;
  Gateway& operator=(const Gateway&) = delete;

  const std::string& address() const { return server_->address(); }
  void Run() { server_->Run(); }
  void Stop() { server_->Stop(); }
  /// For the service's status; from any thread.
  HttpStatus Status() const;

 private:
  using Clock = std::chrono::steady_clock;

  /// One request on its way.
  struct Call {
    HttpRequest request = {};
    std::shared_ptr<HttpReply> reply = nullptr;
    std::string peer = {};
    const GatewayRoute* route = nullptr;
    std::string request_id;
    std::string tenant = {};
    bool stream = false;
    Clock::time_point begin = Clock::now();
  };
  using CallPointer = std::shared_ptr<Call>;
  using ReadBody = absl::StatusOr<ApiRequest> (*)(const nlohmann::json& body,
                                                  const ProtocolLimits& limits);

  Gateway(GatewayOptions options, GatewayBackend& backend);

  std::optional<HttpResponse> CheckHead(const HttpRequest& request,
                                        const std::string& peer) override;
  void Handle(HttpRequest request, std::shared_ptr<HttpReply> reply) override;
  HttpResponse Malformed(int status, std::string_view message, const HttpRequest& request,
                         const std::string& peer) override;

  /// What a request is answered with before its body is read.
  struct EarlyAnswer {
    HttpResponse response;
    std::string error = {};  // its code; empty: it is none
  };
  std::optional<EarlyAnswer> EarlyAnswerTo(const HttpRequest& request, const GatewayRoute* route);
  void Dispatch(const CallPointer& call);
  /// Adds what all responses have.
  void Decorate(const HttpRequest& request, const std::string& request_id, HttpResponse& response);
  /// The whole response to a request that no exchange answers.
  void Respond(const CallPointer& call, HttpResponse response, std::string error = "");
  void RespondJson(const CallPointer& call, const AnswerJson& json);
  void RespondError(const CallPointer& call, const ApiError& error);
  void RespondError(const CallPointer& call, const absl::Status& status);
  void Log(const Call& call, const AnswerOutcome& outcome, bool answer);
  /// Calls back on the gateway's thread, unless the call failed by an exception.
  void OnThread(const CallPointer& call, std::function<void()> function);
  /// Does what takes long in proportion to the body, elsewhere where it is long; `work` gives what
  /// is then called on the gateway's thread.
  using TextWork = std::function<std::function<void()>()>;
  void ReadInWorker(const CallPointer& call, TextWork work);
  void TokenizeInWorker(const CallPointer& call, TextWork work);
  void InWorker(TextWorker& worker, size_t least, const CallPointer& call, TextWork work);

  // gateway_answers.cpp
  void HandleAnswer(const CallPointer& call, ReadBody read);
  void TakeRequest(const CallPointer& call, ApiRequest request);
  void StartAnswer(const CallPointer& call, ApiRequest request, AnswerHead head);
  void ContinueResponse(const CallPointer& call, ApiRequest request, AnswerHead head);
  std::unique_ptr<AnswerFormat> MakeFormat(const Call& call, const ApiRequest& request,
                                           AnswerHead head, size_t choices);
  absl::Status CheckModel(const std::string& model) const;
  std::string ModelNames() const;
  void HandleStoredResponse(const CallPointer& call);

  // gateway_routes.cpp
  void HandleModels(const CallPointer& call);
  /// The body of a request about texts, which may name the model.
  absl::StatusOr<nlohmann::json> ParseTextBody(const std::string& text) const;
  void HandleTokenize(const CallPointer& call);
  void HandleDetokenize(const CallPointer& call);
  void HandleApplyTemplate(const CallPointer& call);
  void HandleCountTokens(const CallPointer& call);
  void HandleMetrics(const CallPointer& call);
  void HandleReady(const CallPointer& call);
  AnswerJson ModelJson(const std::string& name) const;

  const GatewayOptions options_;
  GatewayBackend& backend_;
  const std::string model_;  // the served name
  const std::string fingerprint_;
  const int64_t created_;
  AnswerIds answer_ids_;
  const std::shared_ptr<GatewayMetrics> metrics_;
  std::unique_ptr<HttpServer> server_;
  std::shared_ptr<GatewayThread> thread_;
  std::optional<HostGuard> guard_;
  std::shared_ptr<Readiness> readiness_;
  // Apart, so that no answer waits until somebody's book is tokenized.
  std::optional<TextWorker> reader_;
  std::optional<TextWorker> tokenizer_;
};

}  // namespace tandem::frontend
