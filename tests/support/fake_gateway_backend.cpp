#include "tests/support/fake_gateway_backend.h"

#include <utility>

namespace tandem::testing {

using frontend::Conversation;
using frontend::ConversationName;
using frontend::GenerateRequest;

FakeGatewayBackend::~FakeGatewayBackend() {
  {
    const std::lock_guard lock(mutex_);
    closing_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void FakeGatewayBackend::Run() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [&] { return closing_ || !work_.empty(); });
    if (closing_) return;
    const std::function<void()> function = std::move(work_.front());
    work_.pop_front();
    lock.unlock();
    function();
    lock.lock();
  }
}

void FakeGatewayBackend::Post(std::function<void()> function) {
  {
    const std::lock_guard lock(mutex_);
    work_.push_back(std::move(function));
  }
  changed_.notify_all();
}

void FakeGatewayBackend::set_refusal(frontend::ErrorCode code, std::string message,
                                     std::optional<double> retry) {
  const std::lock_guard lock(mutex_);
  refusal_ = code;
  refusal_message_ = std::move(message);
  retry_after_ = retry;
}

void FakeGatewayBackend::Start(uint64_t client, frontend::Request request,
                               std::shared_ptr<frontend::AnswerEvents> events) {
  Started started{.client = client,
                  .id = request.id,
                  .request = std::get<GenerateRequest>(std::move(request.body)),
                  .events = std::move(events)};
  {
    const std::lock_guard lock(mutex_);
    waiting_.push_back(started);
    ++started_;
  }
  changed_.notify_all();
  if (answers_.load()) {
    Post([this, started = std::move(started)] { Answer(started); });
  }
}

void FakeGatewayBackend::Answer(const Started& started) {
  {
    std::unique_lock lock(mutex_);
    if (refusal_) {
      const auto code = *refusal_;
      const std::string message = refusal_message_;
      const auto retry = retry_after_;
      lock.unlock();
      return started.events->OnFailed(code, message, retry);
    }
  }
  started.events->OnAccepted(/*prompt_tokens=*/12);
  std::string text;
  for (const std::string& piece : pieces) text += piece;
  const auto count = static_cast<size_t>(started.request.samples);
  const std::vector<int32_t> bytes = ByteTokens(text);
  std::vector<parallel::TokenLogprobs> logprobs;
  if (started.request.params.logprobs) {
    for (const int32_t byte : bytes) {
      parallel::TokenLogprobs token{.chosen = {.token = byte, .logprob = -0.5F}, .top = {}};
      for (int32_t i = 0; i < *started.request.params.logprobs; ++i) {
        token.top.push_back({.token = byte + i, .logprob = -0.5F - static_cast<float>(i)});
      }
      logprobs.push_back(std::move(token));
    }
  }
  int64_t seq = 0;
  for (size_t choice = 0; choice < count; ++choice) {
    size_t at = 0;
    for (const std::string& piece : pieces) {
      frontend::AnswerDelta delta{.choice = choice, .seq = seq++, .text = piece, .logprobs = {}};
      if (!logprobs.empty()) delta.logprobs = std::span(logprobs).subspan(at, piece.size());
      at += piece.size();
      if (started.events->OnDelta(delta) != frontend::Delivery::kSent) return;
    }
  }
  frontend::DoneContents done;
  for (size_t choice = 0; choice < count; ++choice) {
    done.choices.push_back({.reason = reason, .text = text, .logprobs = std::nullopt});
    if (!stop_string.empty()) done.choices.back().stop_string = stop_string;
    if (!logprobs.empty()) done.choices.back().logprobs = logprobs;
  }
  done.conversation = started.request.conversation;
  done.usage.prompt_tokens = 12;
  done.usage.reused_tokens = 4;
  done.usage.completion_tokens = static_cast<int32_t>(bytes.size() * count);
  if (done.conversation) {
    if (const auto* more = std::get_if<0>(&started.request.input); more != nullptr) {
      const std::lock_guard lock(mutex_);
      Conversation& kept = conversations_[{started.request.tenant, *done.conversation}];
      kept.messages.insert(kept.messages.end(), more->begin(), more->end());
      kept.messages.push_back({"assistant", text});
    }
  }
  started.events->OnDone(done);
}

void FakeGatewayBackend::Cancel(uint64_t /*client*/, const std::string& id) {
  const std::lock_guard lock(mutex_);
  cancelled_.push_back(id);
}

void FakeGatewayBackend::Gone(uint64_t /*client*/) {
  {
    const std::lock_guard lock(mutex_);
    ++gone_;
  }
  changed_.notify_all();
}

void FakeGatewayBackend::GetConversation(const ConversationName& name, ConversationAnswer answer) {
  Post([this, name, answer = std::move(answer)] {
    std::unique_lock lock(mutex_);
    const auto found = conversations_.find(name);
    if (found == conversations_.end()) {
      lock.unlock();
      return answer(NotFound("no conversation {}", name.id));
    }
    const Conversation copy = found->second;
    lock.unlock();
    answer(&copy);
  });
}

void FakeGatewayBackend::DeleteConversation(const ConversationName& name, CommandAnswer answer) {
  Post([this, name, answer = std::move(answer)] {
    std::unique_lock lock(mutex_);
    const bool found = conversations_.erase(name) > 0;
    lock.unlock();
    answer(found ? absl::OkStatus() : NotFound("no conversation {}", name.id));
  });
}

void FakeGatewayBackend::Figures(FiguresAnswer answer) {
  Post([answer = std::move(answer)] {
    parallel::EngineStatus figures;
    figures.running = 2;
    figures.waiting = 3;
    figures.blocks_total = 100;
    figures.blocks_used = 25;
    figures.prompt_tokens = 1000;
    figures.reused_tokens = 400;
    figures.tokens_generated = 77;
    figures.tokens_prefilled = 600;
    answer(figures);
  });
}

FakeGatewayBackend::Started FakeGatewayBackend::Next() {
  std::unique_lock lock(mutex_);
  changed_.wait_for(lock, std::chrono::seconds(10), [&] { return !waiting_.empty(); });
  if (waiting_.empty()) return {};
  Started started = std::move(waiting_.front());
  waiting_.pop_front();
  return started;
}

bool FakeGatewayBackend::WaitGone(size_t count) {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, std::chrono::seconds(10), [&] { return gone_ >= count; });
}

size_t FakeGatewayBackend::started() const {
  const std::lock_guard lock(mutex_);
  return started_;
}

std::vector<std::string> FakeGatewayBackend::cancelled() const {
  const std::lock_guard lock(mutex_);
  return cancelled_;
}

void FakeGatewayBackend::Keep(const ConversationName& name,
                              std::vector<frontend::ChatMessage> messages) {
  const std::lock_guard lock(mutex_);
  conversations_[name].messages = std::move(messages);
}

std::optional<std::vector<frontend::ChatMessage>> FakeGatewayBackend::Kept(
    const ConversationName& name) {
  const std::lock_guard lock(mutex_);
  const auto found = conversations_.find(name);
  if (found == conversations_.end()) return std::nullopt;
  return found->second.messages;
}

RunningGateway::RunningGateway(frontend::GatewayBackend& backend,
                               frontend::GatewayOptions options) {
  options.http.address = "127.0.0.1:0";
  absl::StatusOr<std::unique_ptr<frontend::Gateway>> gateway =
      frontend::Gateway::Create(std::move(options), backend);
  gateway_ = std::move(gateway).value();
  thread_ = std::thread([this] { gateway_->Run(); });
}

RunningGateway::~RunningGateway() {
  gateway_->Stop();
  thread_.join();
}

}  // namespace tandem::testing
