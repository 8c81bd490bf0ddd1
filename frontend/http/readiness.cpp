#include "frontend/http/readiness.h"

#include <fmt/format.h>

#include <utility>

namespace tandem::frontend {
namespace {

constexpr uint64_t kProbeClient = 0;  // no connection has this number

std::string ProbeId(uint64_t probe) { return fmt::format("ready-{}", probe); }

}  // namespace

/// One token that is asked for.
class Readiness::Probe final : public AnswerEvents {
 public:
  Probe(std::weak_ptr<Readiness> readiness, std::shared_ptr<GatewayThread> thread, uint64_t number)
      : readiness_(std::move(readiness)), thread_(std::move(thread)), number_(number) {}

  Delivery OnAccepted(int32_t /*prompt_tokens*/) override { return Delivery::kSent; }
  Delivery OnDelta(const AnswerDelta& /*delta*/) override { return Delivery::kSent; }
  Delivery OnDone(const DoneContents& done) override {
    const bool came =
        !done.choices.empty() && (done.choices.front().reason == parallel::FinishReason::kLength ||
                                  done.choices.front().reason == parallel::FinishReason::kStop);
    Tell(came ? absl::OkStatus() : Unavailable("no token came of the engine"));
    return Delivery::kSent;
  }
  void OnFailed(ErrorCode code, std::string_view message,
                std::optional<double> /*retry_after*/) override {
    // A full engine is at work.
    Tell(code == ErrorCode::kOverloaded ? absl::OkStatus() : Unavailable("{}", message));
  }

 private:
  void Tell(const absl::Status& status) {
    thread_->Post([weak = readiness_, number = number_, status] {
      if (const auto readiness = weak.lock()) readiness->Tell(number, status);
    });
  }

  const std::weak_ptr<Readiness> readiness_;
  const std::shared_ptr<GatewayThread> thread_;
  const uint64_t number_;
};

Readiness::Readiness(ReadinessOptions options, GatewayBackend& backend, HttpServer& server,
                     std::shared_ptr<GatewayThread> thread, std::shared_ptr<GatewayMetrics> metrics)
    : options_(options),
      backend_(backend),
      server_(server),
      thread_(std::move(thread)),
      metrics_(std::move(metrics)) {}

void Readiness::Ask(Answer answer) {
  if (!backend_.ready()) {
    return answer(Unavailable("the engine takes no requests: it starts, ends, or has failed"));
  }
  const std::optional<double> since = metrics_->SecondsSinceToken();
  if (since && *since <= std::chrono::duration<double>(options_.token_age).count()) {
    return answer(absl::OkStatus());
  }
  if (told_at_ && Clock::now() - *told_at_ < options_.kept) return answer(told_);
  waiting_.push_back(std::move(answer));
  if (waiting_.size() > 1) return;
  const uint64_t number = ++probe_;
  GenerateRequest generate;
  generate.input.emplace<2>(1, 0);  // any token will do
  generate.params.max_tokens = 1;
  generate.params.sampling.temperature = 0;
  generate.params.ignore_eos = true;
  generate.params.reuse = false;
  generate.params.priority = 100;
  generate.deadline_seconds = std::chrono::duration<double>(options_.deadline).count();
  Request request{.id = ProbeId(number), .body = std::move(generate)};
  server_.After(options_.deadline, [weak = weak_from_this(), number] {
    const auto self = weak.lock();
    if (self == nullptr || self->probe_ != number || self->waiting_.empty()) return;
    self->backend_.Cancel(kProbeClient, ProbeId(number));
    self->Tell(number, Unavailable("no token came through the ranks within {} ms",
                                   self->options_.deadline.count()));
  });
  backend_.Start(kProbeClient, std::move(request),
                 std::make_shared<Probe>(weak_from_this(), thread_, number));
}

void Readiness::Tell(uint64_t probe, const absl::Status& status) {
  if (probe != probe_ || waiting_.empty()) return;
  told_ = status;
  told_at_ = Clock::now();
  for (const Answer& answer : std::exchange(waiting_, {})) answer(status);
}

}  // namespace tandem::frontend
