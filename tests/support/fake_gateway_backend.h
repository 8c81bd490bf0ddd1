#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "frontend/http/gateway.h"
#include "frontend/http/gateway_backend.h"
#include "tests/support/fake_text_model.h"

namespace tandem::testing {

/// A service without an engine. By itself it answers every request with `pieces`, on a thread of
/// its own; else the test does, through the events that Started hands out. Conversations are kept.
class FakeGatewayBackend : public frontend::GatewayBackend {
 public:
  struct Started {
    uint64_t client = 0;
    std::string id;
    frontend::GenerateRequest request;
    std::shared_ptr<frontend::AnswerEvents> events;
  };

  FakeGatewayBackend() : thread_([this] { Run(); }) {}
  ~FakeGatewayBackend() override;

  const frontend::TextModel& model() const override { return model_; }
  bool ready() const override { return ready_.load(); }
  bool serves() const override { return serves_.load(); }
  void Start(uint64_t client, frontend::Request request,
             std::shared_ptr<frontend::AnswerEvents> events) override;
  void Cancel(uint64_t client, const std::string& id) override;
  void Gone(uint64_t client) override;
  void GetConversation(const frontend::ConversationName& name, ConversationAnswer answer) override;
  void DeleteConversation(const frontend::ConversationName& name, CommandAnswer answer) override;
  void Figures(FiguresAnswer answer) override;

  // Of tests, before the gateway runs, or with atomics.
  void set_ready(bool ready) { ready_.store(ready); }
  void set_serves(bool serves) { serves_.store(serves); }
  void set_answers(bool answers) { answers_.store(answers); }
  void set_refusal(frontend::ErrorCode code, std::string message, std::optional<double> retry);
  std::vector<std::string> pieces = {"Hel", "lo ", "w\u00F6rld"};
  parallel::FinishReason reason = parallel::FinishReason::kStop;
  std::string stop_string;  // that ends answers; empty: none does

  /// Waits for the next request that was started; none within ten seconds: an empty one.
  Started Next();
  /// Waits until a client is gone; false within ten seconds.
  bool WaitGone(size_t count = 1);
  size_t started() const;
  std::vector<std::string> cancelled() const;
  void Keep(const frontend::ConversationName& name, std::vector<frontend::ChatMessage> messages);
  std::optional<std::vector<frontend::ChatMessage>> Kept(const frontend::ConversationName& name);

 private:
  void Run();
  void Post(std::function<void()> function);
  void Answer(const Started& started);

  const FakeTextModel model_;
  std::atomic<bool> ready_{true};
  std::atomic<bool> serves_{true};
  std::atomic<bool> answers_{true};

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> work_;
  std::deque<Started> waiting_;
  std::map<frontend::ConversationName, frontend::Conversation> conversations_;
  std::optional<frontend::ErrorCode> refusal_;
  std::string refusal_message_;
  std::optional<double> retry_after_;
  std::vector<std::string> cancelled_;
  size_t started_ = 0;
  size_t gone_ = 0;
  bool closing_ = false;
  std::thread thread_;
};

/// A gateway on a free port of loopback, with its thread.
class RunningGateway {
 public:
  explicit RunningGateway(frontend::GatewayBackend& backend, frontend::GatewayOptions options = {});
  ~RunningGateway();
  const std::string& address() const { return gateway_->address(); }
  frontend::HttpStatus Status() const { return gateway_->Status(); }

 private:
  std::unique_ptr<frontend::Gateway> gateway_;
  std::thread thread_;
};

}  // namespace tandem::testing
