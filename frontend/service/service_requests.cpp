#include <spdlog/spdlog.h>

#include <algorithm>
#include <limits>
#include <utility>

#include "core/base/counted.h"
#include "core/base/retry_after.h"
#include "frontend/service/service.h"
#include "frontend/text/name_number.h"

/// The service's requests for answers, from arrival to their last word.
namespace tandem::frontend {
namespace {

constexpr std::chrono::milliseconds kReplayTurn{20};  // of all replays, in a step
constexpr size_t kDeltasOfPart = 64;                  // of a replay, at once
constexpr double kDrainSeconds = 5;                   // after which another server may be there
constexpr double kQueueSeconds = 1;                   // after which a client may try again

constexpr std::string_view kTooSlow =
    "cancelled, because this client does not read its answers and its byte budget is used up: read "
    "while they come, then send the request again";

/// The next delta of a choice, which ends there; it goes on where the last one ended.
AnswerDelta NextDelta(const RequestRecord& record, size_t seq, const RequestRecord::Delta& begin,
                      const RequestRecord::Delta& end) {
  const AnswerChoice& choice = record.choices[end.choice];
  AnswerDelta delta;
  delta.choice = end.choice;
  delta.seq = static_cast<int64_t>(seq);
  delta.text = std::string_view(choice.text).substr(begin.text_end, end.text_end - begin.text_end);
  if (record.wants_logprobs) {
    delta.logprobs = std::span(choice.logprobs)
                         .subspan(begin.logprobs_end, end.logprobs_end - begin.logprobs_end);
  }
  return delta;
}

/// Adds what one of several answers to the same prompt took.
void AddUsage(const parallel::Usage& more, parallel::Usage& sum) {
  sum.completion_tokens += more.completion_tokens;
  sum.reused_tokens += more.reused_tokens;
  sum.reused_from += more.reused_from;
  sum.computed_tokens += more.computed_tokens;
  sum.preemptions += more.preemptions;
  sum.drafted_tokens += more.drafted_tokens;
  sum.accepted_tokens += more.accepted_tokens;
  sum.queue_seconds = std::max(sum.queue_seconds, more.queue_seconds);
  sum.prefill_seconds = std::max(sum.prefill_seconds, more.prefill_seconds);
  sum.decode_seconds = std::max(sum.decode_seconds, more.decode_seconds);
}

}  // namespace

absl::Status Service::CheckTakes(const std::string& client, int32_t samples) const {
  if (draining()) {
    return WithRetryAfter(absl::UnavailableError(
                              "the server is draining: it completes the answers that it has begun, "
                              "takes no more requests, and ends; send the request to another "
                              "server, or again when this one has been started again"),
                          kDrainSeconds);
  }
  if (ending_.load() && ends_with_.ok()) {
    return absl::UnavailableError("the server is shutting down");
  }
  const int64_t open = requests_.open_answers();
  const int64_t of_client = requests_.OpenAnswersOf(client);
  if (open + samples <= options_.open_requests &&
      of_client + samples <= options_.open_requests_per_client) {
    return absl::OkStatus();
  }
  return WithRetryAfter(
      ResourceExhausted("{} in progress ({} for this client), at most {} ({}) are taken: "
                        "wait for one, then send again",
                        Counted(open, "answer is", "answers are"), of_client,
                        options_.open_requests, options_.open_requests_per_client),
      kQueueSeconds);
}

void Service::TakeStart(const RequestName& name, Request request,
                        const std::shared_ptr<AnswerEvents>& events) {
  if (RequestRecord* known = requests_.Find(name); known != nullptr) {
    if (known->fingerprint == request.fingerprint) {
      Replay(*known, 0);
    } else {
      Refuse(*events, ErrorCode::kInvalidArgument,
             fmt::format("id: \"{}\" is already the name of another request on this connection; "
                         "give each request an id of its own",
                         name.id));
    }
    return;
  }
  auto& generate = std::get<GenerateRequest>(request.body);
  if (const absl::Status takes = CheckTakes(name.client, generate.samples); !takes.ok()) {
    Refuse(*events, takes);
    return;
  }
  RequestRecord& record = requests_.Add(name, static_cast<size_t>(generate.samples));
  record.fingerprint = request.fingerprint;
  record.events = events;
  const absl::Status started = Prepare(record, std::move(generate));
  if (!started.ok()) {
    DropRequest(record);
    Refuse(*events, started);
  }
}

absl::Status Service::Prepare(RequestRecord& record, GenerateRequest request) {
  if (request.deadline_seconds) {
    record.deadline = Clock::now() + std::chrono::duration_cast<Clock::duration>(
                                         std::chrono::duration<double>(*request.deadline_seconds));
    SetTimer(*record.deadline);
  }
  Preparation preparation;
  preparation.key = record.key;
  preparation.client = record.name.client;
  preparation.policy = request.context_policy.value_or(options_.context_policy);
  preparation.durable = log_ != nullptr && request.conversation.has_value();
  preparation.most_logprobs = options_.logprobs / request.batch;
  preparation.request = std::move(request);
  if (preparation.request.conversation) {
    TANDEM_RETURN_IF_ERROR(BeginTurn(record, preparation));
  }
  return preparer_->Add(std::move(preparation));
}

void Service::TakePrepared(RequestRecord& record, Prepared prepared) {
  const std::shared_ptr<AnswerEvents> events = record.events;
  const std::string client = record.name.client;
  const uint64_t key = record.key;
  const bool detached = record.detached_until.has_value();
  record.preparing = false;
  std::vector<Mailbox::Event> early;
  if (const auto found = early_.find(key); found != early_.end()) {
    early = std::move(found->second);
    early_.erase(found);
  }
  if (!prepared.status.ok()) {
    DropRequest(record);
    if (!detached) Refuse(*events, prepared.status);
    return;
  }
  record.dropped = prepared.chat.dropped;
  record.seed = prepared.seed;
  record.prompt_tokens = prepared.prompt_length;
  record.wants_logprobs = prepared.wants_logprobs;
  if (record.turn) {
    record.turn->messages = std::move(prepared.new_messages);
    record.turn->prompt = std::move(prepared.chat);
  }
  for (size_t i = 0; i < record.choices.size(); ++i) {
    AnswerChoice& choice = record.choices[i];
    choice.engine_id = prepared.engine_ids[i];
    choice.writer.emplace(model_.NewStream(), prepared.stop, prepared.min_tokens);
    choice.echo = prepared.echo;
    if (!prepared.prompt_logprobs) continue;
    choice.prompt_logprobs = prepared.prompt_tokens.size();
    // Nothing stands before the first token to tell how likely it is.
    constexpr float kUnknown = std::numeric_limits<float>::quiet_NaN();
    choice.logprobs.push_back({.chosen = {prepared.prompt_tokens.front(), kUnknown}, .top = {}});
  }
  if (record.cancelled) CancelInEngine(record);
  for (int i = 0; i < record.accepts && !detached; ++i) {
    if (events->OnAccepted(prepared.prompt_length) == Delivery::kGone) {
      TakeGone(client);
      break;
    }
  }
  for (size_t i = 0; i < prepared.engine_ids.size(); ++i) {
    RequestRecord* open = requests_.FindOpen(key);
    // An echo comes with the log-probabilities where there are some.
    if (open == nullptr || open->wants_logprobs || !Deliver(*open, i, "", /*last=*/false)) break;
  }
  for (Mailbox::Event& event : early) Take(std::move(event));
}

void Service::TakeCancel(const RequestName& name, AnswerEvents* events) {
  RequestRecord* record = requests_.Find(name);
  if (record != nullptr && record->open()) {
    record->detached_until.reset();  // whoever cancels is there
    record->cancelled = true;
    CancelInEngine(*record);  // its done comes when the engine has let go of it
  } else if (events == nullptr) {
    return;
  } else if (record != nullptr) {
    events->OnDone(*record->done);
  } else {
    Refuse(*events, ErrorCode::kNotFound,
           fmt::format("cancel: this connection has no request \"{}\"", name.id));
  }
}

void Service::TakeResume(const RequestName& name, const ResumeRequest& resume,
                         AnswerEvents& events) {
  RequestRecord* record = requests_.Find(name);
  if (record == nullptr) {
    Refuse(
        events, ErrorCode::kNotFound,
        fmt::format("resume: no answer to a request \"{}\" is kept for this connection identity: "
                    "it never came, it failed, its client was gone for more than {} s, or it is "
                    "too long ago; send the request again",
                    name.id, std::chrono::duration<double>(options_.resume_grace).count()));
    return;
  }
  constexpr int64_t kMost = std::numeric_limits<int64_t>::max() - 1;
  Replay(*record, std::min(resume.last_seq.value_or(-1), kMost) + 1);
}

void Service::Replay(RequestRecord& record, int64_t from_seq) {
  record.detached_until.reset();
  if (record.preparing) {
    ++record.accepts;
    return;
  }
  const Delivery delivery = record.events->OnAccepted(record.prompt_tokens);
  if (delivery != Delivery::kSent) {
    EndReplay(record, delivery);
    return;
  }
  const bool goes_on = record.replay.has_value();
  RequestRecord::Replay replay{
      .next = std::min(static_cast<size_t>(std::max<int64_t>(from_seq, 0)), record.deltas.size()),
      .begins = std::vector<RequestRecord::Delta>(record.choices.size())};
  std::vector<bool> known(record.choices.size());
  size_t unknown = known.size();
  for (size_t seq = replay.next; seq > 0 && unknown > 0; --seq) {
    const RequestRecord::Delta& delta = record.deltas[seq - 1];
    if (known[delta.choice]) continue;
    known[delta.choice] = true;
    replay.begins[delta.choice] = delta;
    --unknown;
  }
  record.replay = std::move(replay);
  if (goes_on) return;
  ReplayTurn turn{.name = record.name, .events = record.events};
  if (SendPart(record)) replays_.push_back(std::move(turn));
}

void Service::ContinueReplays() {
  const Clock::time_point end = Clock::now() + kReplayTurn;
  replays_are_late_ = false;
  for (size_t unread = 0; unread < replays_.size();) {
    if (Clock::now() >= end) {
      replays_are_late_ = true;
      return;
    }
    ReplayTurn turn = std::move(replays_.front());
    replays_.pop_front();
    RequestRecord* record = requests_.Find(turn.name);
    if (record == nullptr) {
      Refuse(
          *turn.events, ErrorCode::kNotFound,
          "resume: the answer was too long ago, and is not kept any more: send the request again");
    }
    if (record == nullptr || !record->replay) continue;
    const bool reads = turn.events->ReadsOn();
    unread = reads ? 0 : unread + 1;
    if (!reads || SendPart(*record)) replays_.push_back(std::move(turn));
  }
}

bool Service::SendPart(RequestRecord& record) {
  RequestRecord::Replay& replay = *record.replay;
  const size_t end = std::min(record.deltas.size(), replay.next + kDeltasOfPart);
  Delivery delivery = Delivery::kSent;
  for (; replay.next < end && delivery == Delivery::kSent; ++replay.next) {
    const RequestRecord::Delta& delta = record.deltas[replay.next];
    const RequestRecord::Delta begin = std::exchange(replay.begins[delta.choice], delta);
    delivery = record.events->OnDelta(NextDelta(record, replay.next, begin, delta));
  }
  if (delivery == Delivery::kSent && replay.next < record.deltas.size()) return true;
  record.replay.reset();
  if (delivery == Delivery::kSent && !record.open()) {
    delivery = record.events->OnDone(*record.done);
  }
  EndReplay(record, delivery);
  return false;
}

void Service::EndReplay(RequestRecord& record, Delivery why) {
  const std::string client = record.name.client;
  if (why == Delivery::kGone) TakeGone(client);
  if (why == Delivery::kOverBudget) {
    if (!record.open()) record.events->OnFailed(ErrorCode::kCancelled, kTooSlow, std::nullopt);
    CancelSlow(client);
  }
}

void Service::Take(RequestRecord& record, size_t choice, std::span<const int32_t> tokens) {
  AnswerChoice& answer = record.choices[choice];
  if (record.turn) answer.tokens.insert(answer.tokens.end(), tokens.begin(), tokens.end());
  const std::string delta = answer.writer->Append(tokens);
  if (!Deliver(record, choice, delta, /*last=*/false)) return;
  if (answer.writer->stopped() && !answer.cancelled) {
    answer.cancelled = true;
    engine_.Cancel(answer.engine_id);
  }
}

void Service::TakeNotice(RequestRecord& record, const parallel::EngineNotice& notice) {
  // Each of several answers brings it.
  if (notice.number <= record.last_notice) return;
  record.last_notice = notice.number;
  if (!record.detached_until) record.events->OnNotice(notice.number, notice.text);
}

bool Service::Deliver(RequestRecord& record, size_t choice, std::string_view text, bool last) {
  AnswerChoice& answer = record.choices[choice];
  const std::string whole = std::exchange(answer.echo, "") + std::string(text);
  const size_t known =
      std::min(answer.logprobs.size(),
               answer.prompt_logprobs + static_cast<size_t>(answer.writer->tokens()));
  const size_t begin = answer.sent_logprobs;
  const bool silent_tokens = last && record.wants_logprobs && known > begin;
  if (whole.empty() && !silent_tokens) return true;
  const RequestRecord::Delta before{
      .choice = choice, .text_end = answer.text.size(), .logprobs_end = begin};
  answer.text += whole;
  answer.sent_logprobs = known;
  const size_t seq = record.deltas.size();
  record.deltas.push_back(
      {.choice = choice, .text_end = answer.text.size(), .logprobs_end = known});
  if (record.detached_until || record.replay) return true;
  const std::string client = record.name.client;
  const uint64_t key = record.key;
  switch (record.events->OnDelta(NextDelta(record, seq, before, record.deltas.back()))) {
    case Delivery::kSent:
      return true;
    case Delivery::kGone:
      TakeGone(client);
      return requests_.FindOpen(key) != nullptr;
    case Delivery::kOverBudget:
      CancelSlow(client);
      return false;
  }
  return false;
}

void Service::Finish(RequestRecord& record, size_t choice, const parallel::Finish& finish) {
  AnswerChoice& answer = record.choices[choice];
  const bool failed = finish.reason == parallel::FinishReason::kFailed && !answer.writer->stopped();
  answer.cancelled = true;  // nothing is left to be ended
  answer.ended = true;
  if (failed) {
    const bool known = !finish.status.ok();
    CancelInEngine(record);
    Fail(record, known ? ErrorCodeOf(finish.status) : ErrorCode::kInternal,
         known ? Message(finish.status) : "the engine gave up on this request without a reason");
    next_engine_check_ = Clock::now();  // was it this request, or the engine?
    return;
  }
  const size_t tokens = answer.prompt_logprobs + static_cast<size_t>(answer.writer->tokens());
  if (record.wants_logprobs && answer.logprobs.size() < tokens &&
      finish.reason != parallel::FinishReason::kCancelled) {
    CancelInEngine(record);
    Fail(record, ErrorCode::kInternal,
         fmt::format("logprobs: the engine told those of {} of {}", answer.logprobs.size(),
                     Counted(static_cast<int64_t>(tokens), "token")));
    return;
  }
  if (!Deliver(record, choice, answer.writer->Finish(), /*last=*/true)) return;
  answer.answer = answer.writer->Result(finish);
  answer.answer->text.clear();
  const auto is_done = [](const AnswerChoice& one) { return one.answer.has_value(); };
  if (std::all_of(record.choices.begin(), record.choices.end(), is_done)) Complete(record);
}

void Service::Complete(RequestRecord& record) {
  DoneContents& done = record.done.emplace();
  done.seed = record.seed;
  done.dropped = record.dropped;
  const AnswerChoice& first = record.choices.front();
  done.usage.prompt_tokens = first.answer->usage.prompt_tokens;
  done.usage.reuse_limit = first.answer->usage.reuse_limit;
  const bool unknown = done.usage.reuse_limit == parallel::ReuseLimit::kNothing ||
                       done.usage.reuse_limit == parallel::ReuseLimit::kDiffers;
  if (record.other_attention && unknown) {
    done.usage.reuse_limit = parallel::ReuseLimit::kOtherAttention;
  }
  bool cancelled = false;
  for (AnswerChoice& choice : record.choices) {
    AddUsage(choice.answer->usage, done.usage);
    const parallel::FinishReason reason = choice.answer->reason;
    cancelled = cancelled || reason == parallel::FinishReason::kCancelled;
    DoneContents::Choice& contents = done.choices.emplace_back();
    contents.reason = reason;
    contents.text = choice.text;
    contents.stop_string = choice.answer->stop_string;
    if (record.wants_logprobs) {
      choice.logprobs.resize(choice.sent_logprobs);  // without those behind a stop string
      contents.logprobs = choice.logprobs;
    }
  }
  ++(cancelled ? counts_.cancelled_requests : counts_.answered_requests);
  if (record.turn) {
    done.conversation = record.turn->name.id;
    CommitTurn(record, first);
    if (log_ != nullptr) {
      // Nothing ends it any more but the news of its turn.
      record.deadline.reset();
      record.unlogged = true;
      return;
    }
  }
  SendDone(record);
}

void Service::SendDone(RequestRecord& record) {
  const RequestName name = record.name;
  const std::shared_ptr<AnswerEvents> events = record.events;
  const bool kept = requests_.Keeps(record);
  // A replay has it behind the deltas, if the answer is not too large to be kept.
  const bool told_now = !record.detached_until && !(record.replay && kept);
  if (record.replay && !kept) EraseReplay(name);
  const Delivery delivery = told_now ? events->OnDone(*record.done) : Delivery::kSent;
  requests_.Finish(record);
  switch (delivery) {
    case Delivery::kSent:
      break;
    case Delivery::kGone:
      TakeGone(name.client);
      break;
    case Delivery::kOverBudget:
      events->OnFailed(ErrorCode::kCancelled, kTooSlow, std::nullopt);
      break;
  }
}

void Service::EraseReplay(const RequestName& name) {
  std::erase_if(replays_, [&](const ReplayTurn& turn) { return turn.name == name; });
}

void Service::CancelInEngine(RequestRecord& record) {
  if (record.preparing) return;
  for (AnswerChoice& choice : record.choices) {
    if (!std::exchange(choice.cancelled, true)) engine_.Cancel(choice.engine_id);
  }
}

void Service::DropRequest(RequestRecord& record) {
  const bool prepares = record.preparing && !preparer_->Drop(record.name.client, record.key);
  const auto found = early_.find(record.key);
  std::vector<Mailbox::Event> early;
  if (found != early_.end()) early = std::move(early_.extract(found).mapped());
  if (record.turn) AbandonTurn(record, prepares);
  if (record.replay) EraseReplay(record.name);
  requests_.Drop(record);
  for (const Mailbox::Event& event : early) TakeAbandoned(event);
}

void Service::DropUnheard(RequestRecord& record) {
  CancelInEngine(record);
  ++counts_.cancelled_requests;
  DropRequest(record);
}

void Service::Fail(RequestRecord& record, ErrorCode code, std::string_view message) {
  ++counts_.failed_requests;
  const std::shared_ptr<AnswerEvents> events = record.events;
  const bool detached = record.detached_until.has_value();
  DropRequest(record);
  if (!detached) events->OnFailed(code, message, std::nullopt);
}

void Service::TakeGone(const std::string& client) {
  std::erase_if(replays_, [&](const ReplayTurn& turn) {
    if (turn.name.client != client) return false;
    if (RequestRecord* record = requests_.Find(turn.name)) record->replay.reset();
    return true;
  });
  const Clock::time_point until = Clock::now() + options_.resume_grace;
  for (RequestRecord* record : requests_.OpenOf(client)) {
    const bool returns = record->events->repeats() == AnswerEvents::Repeats::kAfterReturn;
    if (!returns || options_.resume_grace.count() == 0) {
      DropUnheard(*record);
    } else if (!record->detached_until) {
      record->detached_until = until;
      SetTimer(until);
    }
  }
  requests_.DropPassingAnswersOf(client);
}

void Service::CancelSlow(const std::string& client) {
  std::vector<uint64_t> keys;
  for (const RequestRecord* record : requests_.OpenOf(client)) {
    if (!record->unlogged) keys.push_back(record->key);
  }
  spdlog::warn("a client does not read its answers: cancelled its {}",
               Counted(static_cast<int64_t>(keys.size()), "request"));
  for (const uint64_t key : keys) {
    RequestRecord* record = requests_.FindOpen(key);
    if (record == nullptr) continue;
    CancelInEngine(*record);
    Fail(*record, ErrorCode::kCancelled, kTooSlow);
  }
}

}  // namespace tandem::frontend
