#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "core/base/status.h"
#include "frontend/http/answer_exchange.h"
#include "frontend/http/gateway_backend.h"
#include "frontend/http/gateway_metrics.h"
#include "frontend/http/wire/http_server.h"

namespace tandem::frontend {

struct ReadinessOptions {
  std::chrono::milliseconds token_age{5000};  // a token as old as this says enough
  std::chrono::milliseconds deadline{2000};   // of a probe
  std::chrono::milliseconds kept{1000};       // its result
};

/// Whether the engine answers: a token went through every rank a short while ago, or one does when
/// it is asked for. Nothing happens where nobody asks. Thread safety: the gateway's thread.
class Readiness : public std::enable_shared_from_this<Readiness> {
 public:
  using Answer = std::function<void(const absl::Status& status)>;

  /// All of them must outlive it, but for `thread`.
  Readiness(ReadinessOptions options, GatewayBackend& backend, HttpServer& server,
            std::shared_ptr<GatewayThread> thread, std::shared_ptr<GatewayMetrics> metrics);

  /// `answer` hears OK, or why not, at once or within the deadline.
  void Ask(Answer answer);

 private:
  class Probe;
  using Clock = std::chrono::steady_clock;

  void Tell(uint64_t probe, const absl::Status& status);

  const ReadinessOptions options_;
  GatewayBackend& backend_;
  HttpServer& server_;
  const std::shared_ptr<GatewayThread> thread_;
  const std::shared_ptr<GatewayMetrics> metrics_;
  std::vector<Answer> waiting_;  // for the probe that runs; empty: none does
  uint64_t probe_ = 0;           // counts them
  std::optional<Clock::time_point> told_at_;
  absl::Status told_;
};

}  // namespace tandem::frontend
