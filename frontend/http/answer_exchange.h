#pragma once

#include <atomic>
#include <chrono>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "core/base/mutex.h"
#include "frontend/http/api/answer_format.h"
#include "frontend/http/api/api_error.h"
#include "frontend/http/gateway_backend.h"
#include "frontend/http/gateway_metrics.h"
#include "frontend/http/text_worker.h"
#include "frontend/http/wire/http_server.h"

namespace tandem::frontend {

/// The gateway's thread, for others: functions are called there as long as it is there.
class GatewayThread {
 public:
  explicit GatewayThread(HttpServer& server) : server_(&server) {}
  void Post(std::function<void()> function);
  /// From now on functions are dropped.
  void Leave();

 private:
  Mutex mutex_;
  HttpServer* server_ ABSL_GUARDED_BY(mutex_);
};

/// The code of a request whose client does not wait for its answer.
inline constexpr std::string_view kClientGone = "client_gone";

/// How an exchange ended, for metrics and the access log.
struct AnswerOutcome {
  int status = 200;         // of HTTP
  std::string error = {};   // its code; empty: none
  std::string reason = {};  // "stop", "length"; empty: no answer came
  parallel::Usage usage = {};
  std::optional<double> first_token_seconds = {};
};

struct ExchangeOptions {
  ApiForm form = ApiForm::kOpenAi;
  bool stream = false;
  size_t parts = 1;                         // requests to the service
  size_t choices = 1;                       // answers of each
  int64_t budget_bytes = int64_t{4} << 20;  // waiting for the client
  uint64_t client = 0;
  std::vector<std::string> ids;  // [parts], of the requests
};

/// One HTTP request that the service answers: events come from its thread, wait here, and become
/// bytes on the gateway's thread, many at a time where they come fast. It does not outlive the
/// worker.
///
/// Thread safety: Events' objects belong to the service's thread, the rest to the gateway's.
class AnswerExchange : public std::enable_shared_from_this<AnswerExchange> {
 public:
  using Clock = std::chrono::steady_clock;
  /// `respond` sends a whole answer, `begin` a stream's head; both add what all responses have.
  /// `ended` is called once.
  struct Callbacks {
    std::function<void(HttpResponse response)> respond;
    std::function<void(HttpResponse response)> begin;
    std::function<void(const AnswerOutcome& outcome)> ended;
    /// Of /v1/responses: where a stored answer may be found.
  };

  AnswerExchange(ExchangeOptions options, std::unique_ptr<AnswerFormat> format,
                 std::shared_ptr<HttpReply> reply, std::shared_ptr<GatewayThread> thread,
                 GatewayBackend& backend, std::shared_ptr<GatewayMetrics> metrics,
                 TextWorker& worker, Callbacks callbacks);

  /// Ends the answer where the client goes away. Call it once, before the parts start.
  void WatchClient();
  /// What the service tells about one of the requests.
  std::shared_ptr<AnswerEvents> EventsOf(size_t part);

 private:
  class Events;
  struct Accepted {
    int32_t prompt_tokens = 0;
  };
  struct Notice {
    uint64_t number = 0;
    std::string text;
  };
  struct Failed {
    ErrorCode code = ErrorCode::kInternal;
    std::string message;
    std::optional<double> retry_after;
  };
  struct News {
    size_t part = 0;
    std::variant<Accepted, ChoiceDelta, Notice, AnswerDone, Failed> what;
  };

  /// From the service's thread.
  Delivery Put(News news, int64_t bytes);

  void TakeNews();
  void Take(News& news, std::string& out);
  void TakeDone(size_t part, AnswerDone done, std::string& out);
  /// Makes the answer of a request that does not stream; of a long one the worker does.
  void SendWhole(AnswerDone all, const AnswerOutcome& outcome);
  void Fail(const Failed& failed, std::string& out);
  void BeginStream(std::string& out);
  void Finish(AnswerOutcome outcome);
  AnswerDone AllParts();

  const ExchangeOptions options_;
  const std::unique_ptr<AnswerFormat> format_;
  const std::shared_ptr<HttpReply> reply_;
  const std::shared_ptr<GatewayThread> thread_;
  GatewayBackend& backend_;
  const std::shared_ptr<GatewayMetrics> metrics_;
  TextWorker& worker_;
  Callbacks callbacks_;
  const Clock::time_point begin_ = Clock::now();

  size_t accepted_ = 0;
  int32_t prompt_tokens_ = 0;  // of the parts that were accepted
  uint64_t last_notice_ = 0;   // that was told: each part brings it
  bool begun_ = false;         // the stream's head is sent
  bool ended_ = false;
  std::vector<std::optional<AnswerDone>> done_;  // [parts]

  std::atomic<bool> gone_{false};
  std::atomic<double> first_token_seconds_{-1};
  Mutex mutex_;
  std::deque<News> news_ ABSL_GUARDED_BY(mutex_);
  int64_t news_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t at_once_bytes_ ABSL_GUARDED_BY(mutex_) = 0;  // that no reading could have made wait less
};

}  // namespace tandem::frontend
