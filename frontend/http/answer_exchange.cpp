#include "frontend/http/answer_exchange.h"

#include <exception>
#include <utility>

#include "frontend/chat/generation.h"
#include "frontend/protocol/json_document.h"

namespace tandem::frontend {
namespace {

constexpr int64_t kAtOnceBytes = int64_t{64} << 10;  // more than tokens have that come by turns

constexpr std::string_view kCrowded =
    "cancelled, because more is waiting for clients that do not read their answers than the server "
    "keeps for all of them, and most of it for this one: read while they come, then send the "
    "request again";

/// What log-probabilities are as JSON, and more.
int64_t BytesOf(std::span<const parallel::TokenLogprobs> tokens) {
  constexpr int64_t kTokenBytes = 64;
  int64_t bytes = 0;
  for (const parallel::TokenLogprobs& token : tokens) {
    bytes += kTokenBytes * static_cast<int64_t>(1 + token.top.size());
  }
  return bytes;
}

}  // namespace

void GatewayThread::Post(std::function<void()> function) {
  const MutexLock lock(mutex_);
  if (server_ != nullptr) server_->Post(std::move(function));
}

void GatewayThread::Leave() {
  const MutexLock lock(mutex_);
  server_ = nullptr;
}

/// What the service calls for one of the requests.
class AnswerExchange::Events final : public AnswerEvents {
 public:
  Events(std::shared_ptr<AnswerExchange> exchange, size_t part)
      : exchange_(std::move(exchange)), part_(part) {}

  Delivery OnAccepted(int32_t prompt_tokens) override {
    return exchange_->Put({part_, Accepted{prompt_tokens}}, 0);
  }

  Delivery OnDelta(const AnswerDelta& delta) override {
    Observe();
    if (!exchange_->options_.stream) {
      return exchange_->gone_.load() ? Delivery::kGone : Delivery::kSent;
    }
    const int64_t bytes = static_cast<int64_t>(delta.text.size()) + BytesOf(delta.logprobs);
    ChoiceDelta copy{.choice = part_ * exchange_->options_.choices + delta.choice,
                     .text = std::string(delta.text),
                     .logprobs = {delta.logprobs.begin(), delta.logprobs.end()}};
    return exchange_->Put({part_, std::move(copy)}, bytes);
  }

  void OnNotice(uint64_t number, std::string_view text) override {
    exchange_->Put({part_, Notice{number, std::string(text)}}, 0);
  }

  Delivery OnDone(const DoneContents& done) override {
    AnswerDone copy{
        .conversation = done.conversation, .durable = done.durable, .usage = done.usage};
    for (const DoneContents::Choice& choice : done.choices) {
      ChoiceDone& out = copy.choices.emplace_back(
          ChoiceDone{.reason = choice.reason, .text = std::string(choice.text)});
      if (choice.stop_string) out.stop_string = *choice.stop_string;
      // Of a stream they are told.
      if (choice.logprobs && !exchange_->options_.stream) {
        out.logprobs.emplace(choice.logprobs->begin(), choice.logprobs->end());
      }
    }
    return exchange_->Put({part_, std::move(copy)}, 0);
  }

  void OnFailed(ErrorCode code, std::string_view message,
                std::optional<double> retry_after) override {
    exchange_->Put({part_, Failed{code, std::string(message), retry_after}}, 0);
  }

 private:
  void Observe() {
    const Clock::time_point now = Clock::now();
    if (last_token_) {
      exchange_->metrics_->ObserveBetweenTokens(Seconds(now - *last_token_));
    } else {
      const double seconds = Seconds(now - exchange_->begin_);
      exchange_->metrics_->ObserveFirstToken(seconds);
      double none = -1;
      exchange_->first_token_seconds_.compare_exchange_strong(none, seconds);
    }
    last_token_ = now;
  }
  static double Seconds(Clock::duration time) {
    return std::chrono::duration<double>(time).count();
  }

  const std::shared_ptr<AnswerExchange> exchange_;
  const size_t part_;
  std::optional<Clock::time_point> last_token_;
};

AnswerExchange::AnswerExchange(ExchangeOptions options, std::unique_ptr<AnswerFormat> format,
                               std::shared_ptr<HttpReply> reply,
                               std::shared_ptr<GatewayThread> thread, GatewayBackend& backend,
                               std::shared_ptr<GatewayMetrics> metrics, TextWorker& worker,
                               Callbacks callbacks)
    : options_(std::move(options)),
      format_(std::move(format)),
      reply_(std::move(reply)),
      thread_(std::move(thread)),
      backend_(backend),
      metrics_(std::move(metrics)),
      worker_(worker),
      callbacks_(std::move(callbacks)),
      done_(options_.parts) {}

void AnswerExchange::WatchClient() {
  reply_->OnGone([weak = weak_from_this()] {
    const auto self = weak.lock();
    if (self == nullptr || self->ended_) return;
    self->gone_.store(true);
    self->backend_.Gone(self->options_.client);
    self->Finish({.status = 499, .error = std::string(kClientGone)});
  });
  reply_->OnCrowded([weak = weak_from_this()] {
    const auto self = weak.lock();
    if (self == nullptr || self->ended_) return;
    self->backend_.Gone(self->options_.client);
    std::string out;
    self->Fail({ErrorCode::kCancelled, std::string(kCrowded), std::nullopt}, out);
  });
}

std::shared_ptr<AnswerEvents> AnswerExchange::EventsOf(size_t part) {
  return std::make_shared<Events>(shared_from_this(), part);
}

Delivery AnswerExchange::Put(News news, int64_t bytes) {
  if (gone_.load()) return Delivery::kGone;
  bool wake = false;
  {
    const MutexLock lock(mutex_);
    // An echoed prompt comes in one piece, however well its client reads.
    if (bytes >= kAtOnceBytes) at_once_bytes_ += bytes;
    const int64_t waiting = reply_->unsent() + news_bytes_ + bytes;
    if (bytes > 0 && waiting > options_.budget_bytes + at_once_bytes_) {
      return Delivery::kOverBudget;
    }
    wake = news_.empty();
    news_bytes_ += bytes;
    news_.push_back(std::move(news));
  }
  if (wake) thread_->Post([self = shared_from_this()] { self->TakeNews(); });
  return Delivery::kSent;
}

void AnswerExchange::TakeNews() {
  std::deque<News> news;
  {
    const MutexLock lock(mutex_);
    news.swap(news_);
    news_bytes_ = 0;
  }
  std::string out;
  for (News& one : news) {
    if (ended_) return;
    try {
      Take(one, out);
    } catch (const std::exception& exception) {
      Fail({ErrorCode::kInternal, exception.what(), std::nullopt}, out);
    }
  }
  if (!ended_ && !out.empty()) reply_->Write(out);
}

void AnswerExchange::Take(News& news, std::string& out) {
  if (const auto* accepted = std::get_if<Accepted>(&news.what)) {
    prompt_tokens_ += accepted->prompt_tokens;
    if (++accepted_ == options_.parts && options_.stream) BeginStream(out);
    return;
  }
  if (auto* failed = std::get_if<Failed>(&news.what)) return Fail(*failed, out);
  if (auto* done = std::get_if<AnswerDone>(&news.what)) {
    return TakeDone(news.part, std::move(*done), out);
  }
  if (const auto* notice = std::get_if<Notice>(&news.what)) {
    if (!begun_ || notice->number <= last_notice_) return;
    last_notice_ = notice->number;
    out += StreamComment(notice->text);
    return;
  }
  BeginStream(out);
  out += format_->StreamDelta(std::get<ChoiceDelta>(news.what));
}

void AnswerExchange::BeginStream(std::string& out) {
  if (begun_) return;
  begun_ = true;
  HttpResponse head{.content_type = "text/event-stream; charset=utf-8"};
  head.headers.emplace_back("Cache-Control", "no-cache");
  head.headers.emplace_back("X-Accel-Buffering", "no");
  callbacks_.begin(std::move(head));
  out += format_->StreamBegin(prompt_tokens_);
}

AnswerDone AnswerExchange::AllParts() {
  AnswerDone all;
  for (std::optional<AnswerDone>& part : done_) {
    for (ChoiceDone& choice : part->choices) all.choices.push_back(std::move(choice));
    if (part->conversation) all.conversation = std::move(part->conversation);
    if (part->durable) all.durable = part->durable;
    const parallel::Usage& usage = part->usage;
    all.usage.prompt_tokens += usage.prompt_tokens;
    all.usage.completion_tokens += usage.completion_tokens;
    all.usage.reused_tokens += usage.reused_tokens;
    all.usage.computed_tokens += usage.computed_tokens;
    all.usage.queue_seconds = std::max(all.usage.queue_seconds, usage.queue_seconds);
    all.usage.prefill_seconds = std::max(all.usage.prefill_seconds, usage.prefill_seconds);
    all.usage.decode_seconds = std::max(all.usage.decode_seconds, usage.decode_seconds);
  }
  return all;
}

void AnswerExchange::TakeDone(size_t part, AnswerDone done, std::string& out) {
  for (const ChoiceDone& choice : done.choices) {
    // Nobody has cancelled it but the server: its client did not read.
    if (choice.reason == parallel::FinishReason::kCancelled) {
      return Fail({ErrorCode::kCancelled, "the answer was cancelled", std::nullopt}, out);
    }
  }
  done_[part] = std::move(done);
  for (const std::optional<AnswerDone>& one : done_) {
    if (!one) return;
  }
  AnswerDone all = AllParts();
  AnswerOutcome outcome{.usage = all.usage};
  if (!all.choices.empty()) outcome.reason = FinishReasonName(all.choices.front().reason);
  if (!options_.stream) return SendWhole(std::move(all), outcome);
  BeginStream(out);
  out += format_->StreamDone(all);
  reply_->Write(std::exchange(out, ""));
  reply_->End();
  Finish(outcome);
}

void AnswerExchange::SendWhole(AnswerDone all, const AnswerOutcome& outcome) {
  constexpr int64_t kShort = int64_t{64} << 10;  // made in a few milliseconds
  int64_t bytes = 0;
  for (const ChoiceDone& choice : all.choices) {
    if (choice.logprobs) bytes += BytesOf(*choice.logprobs);
  }
  const auto done = std::make_shared<const AnswerDone>(std::move(all));
  const auto make = [self = shared_from_this(), done, outcome]() -> std::function<void()> {
    const auto body = std::make_shared<std::string>();
    std::string failure;
    try {
      *body = DumpJson(self->format_->Whole(*done));
    } catch (const std::exception& exception) {
      failure = exception.what();
    }
    return [self, body, failure, outcome] {
      if (self->ended_) return;
      std::string out;
      if (!failure.empty()) return self->Fail({ErrorCode::kInternal, failure, std::nullopt}, out);
      self->callbacks_.respond({.content_type = "application/json", .body = std::move(*body)});
      self->Finish(outcome);
    };
  };
  const bool elsewhere =
      bytes > kShort && worker_.Do(options_.client, bytes, [this, make] { thread_->Post(make()); });
  if (!elsewhere) make()();
}

void AnswerExchange::Fail(const Failed& failed, std::string& out) {
  const ApiError error = MakeApiError(failed.code, failed.message, failed.retry_after);
  // The other prompts of the request are of no use alone.
  for (size_t part = 0; part < options_.parts && options_.parts > 1; ++part) {
    if (!done_[part]) backend_.Cancel(options_.client, options_.ids[part]);
  }
  if (begun_) {
    out += format_->StreamError(failed.code, failed.message);
    reply_->Write(std::exchange(out, ""));
    reply_->End();
  } else {
    callbacks_.respond(ErrorResponse(options_.form, error));
  }
  Finish({.status = error.status, .error = error.code});
}

void AnswerExchange::Finish(AnswerOutcome outcome) {
  if (std::exchange(ended_, true)) return;
  gone_.store(true);
  const double first = first_token_seconds_.load();
  if (first >= 0) outcome.first_token_seconds = first;
  callbacks_.ended(outcome);
  callbacks_ = {};
}

}  // namespace tandem::frontend
