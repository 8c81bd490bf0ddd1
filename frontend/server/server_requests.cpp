#include <spdlog/spdlog.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "core/base/counted.h"
#include "core/base/retry_after.h"
#include "frontend/chat/logprobs_json.h"
#include "frontend/server/server.h"
#include "frontend/text/name_number.h"

/// The server's requests for answers, from arrival to their last frame.
namespace tandem::frontend {
namespace {

constexpr size_t kDeltasOfPart = 64;  // of a replay, at once
constexpr double kQueueSeconds = 1;   // after which a client may try again

constexpr std::string_view kTooSlow =
    "cancelled, because this client does not read its answers and its byte budget is used up: read "
    "while they come, then send the request again";

/// Names that ROUTER makes up begin with a zero byte, and never come back after a disconnect.
bool IsMadeUpName(const std::string& client) { return client.empty() || client[0] == '\0'; }

/// What a delta says besides its text: the log-probabilities up to `end`, and which choice it is.
DeltaExtras ExtrasOf(const RequestRecord& record, size_t choice, size_t begin, size_t end,
                     const TextModel& model) {
  DeltaExtras extras;
  if (record.choices.size() > 1) extras.choice = choice;
  if (record.wants_logprobs) {
    const std::span known(record.choices[choice].logprobs);
    extras.logprobs = LogprobsJson(model, known.subspan(begin, end - begin));
  }
  return extras;
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

void Server::HandleGenerate(const RequestName& name, Request request) {
  if (RequestRecord* known = requests_.Find(name); known != nullptr) {
    if (known->fingerprint == request.fingerprint) {
      Replay(*known, 0);
    } else {
      Refuse(name, ErrorCode::kInvalidArgument,
             fmt::format("id: \"{}\" is already the name of another request on this connection; "
                         "give each request an id of its own",
                         name.id));
    }
    return;
  }
  auto& generate = std::get<GenerateRequest>(request.body);
  const int64_t open = requests_.open_answers();
  const int64_t of_client = requests_.OpenAnswersOf(name.client);
  if (open + generate.samples > options_.open_requests ||
      of_client + generate.samples > options_.open_requests_per_client) {
    Refuse(name,
           WithRetryAfter(
               ResourceExhausted("{} in progress ({} for this client), at most {} ({}) are taken: "
                                 "wait for one, then send again",
                                 Counted(open, "answer is", "answers are"), of_client,
                                 options_.open_requests, options_.open_requests_per_client),
               kQueueSeconds));
    return;
  }
  RequestRecord& record = requests_.Add(name, static_cast<size_t>(generate.samples));
  record.fingerprint = request.fingerprint;
  const absl::Status started = Start(record, std::move(generate));
  if (!started.ok()) {
    DropRequest(record);
    Refuse(name, started);
  }
}

absl::Status Server::Start(RequestRecord& record, GenerateRequest request) {
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
  preparation.most_logprobs = options_.logprobs;
  preparation.request = std::move(request);
  if (preparation.request.conversation) {
    TANDEM_RETURN_IF_ERROR(BeginTurn(record, preparation));
  }
  return preparer_->Add(std::move(preparation));
}

void Server::TakePrepared(RequestRecord& record, Prepared prepared) {
  const RequestName name = record.name;
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
    if (!detached) Refuse(name, prepared.status);
    return;
  }
  record.dropped = prepared.chat.dropped;
  record.seed = prepared.seed;
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
    if (router_->Send(name.client, AcceptedFrame(name.id)) == Router::Delivery::kGone) {
      Vanished(name.client);
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

void Server::HandleResume(const RequestName& name, const ResumeRequest& resume) {
  RequestRecord* record = requests_.Find(name);
  if (record == nullptr) {
    Refuse(
        name, ErrorCode::kNotFound,
        fmt::format("resume: no answer to a request \"{}\" is kept for this connection identity: "
                    "it never came, it failed, its client was gone for more than {} s, or it is "
                    "too long ago; send the request again",
                    name.id, std::chrono::duration<double>(options_.resume_grace).count()));
    return;
  }
  constexpr int64_t kMost = std::numeric_limits<int64_t>::max() - 1;
  Replay(*record, std::min(resume.last_seq.value_or(-1), kMost) + 1);
}

void Server::Replay(RequestRecord& record, int64_t from_seq) {
  const std::string client = record.name.client;
  record.detached_until.reset();
  if (record.preparing) {
    ++record.accepts;
    return;
  }
  const Router::Delivery delivery = router_->Send(client, AcceptedFrame(record.name.id));
  if (delivery != Router::Delivery::kSent) {
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
  const RequestName name = record.name;
  if (SendPart(record)) replays_.push_back(name);
}

bool Server::SendPart(RequestRecord& record) {
  const std::string client = record.name.client;
  RequestRecord::Replay& replay = *record.replay;
  const size_t end = std::min(record.deltas.size(), replay.next + kDeltasOfPart);
  Router::Delivery delivery = Router::Delivery::kSent;
  for (; replay.next < end && delivery == Router::Delivery::kSent; ++replay.next) {
    const RequestRecord::Delta& delta = record.deltas[replay.next];
    const RequestRecord::Delta begin = std::exchange(replay.begins[delta.choice], delta);
    const std::string_view text = record.choices[delta.choice].text;
    delivery = router_->Send(
        client,
        DeltaFrame(record.name.id, static_cast<int64_t>(replay.next),
                   text.substr(begin.text_end, delta.text_end - begin.text_end),
                   ExtrasOf(record, delta.choice, begin.logprobs_end, delta.logprobs_end, model_)));
  }
  if (delivery == Router::Delivery::kSent && replay.next < record.deltas.size()) return true;
  record.replay.reset();
  if (delivery == Router::Delivery::kSent && !record.open()) {
    delivery = router_->Send(client, record.done_frame, /*must=*/true);
  }
  EndReplay(record, delivery);
  return false;
}

void Server::EndReplay(RequestRecord& record, Router::Delivery why) {
  const std::string client = record.name.client;
  if (why == Router::Delivery::kGone) Vanished(client);
  if (why == Router::Delivery::kOverBudget) {
    if (!record.open()) {
      router_->Send(client, ErrorFrame(record.name.id, ErrorCode::kCancelled, kTooSlow),
                    /*must=*/true);
    }
    CancelSlow(client);
  }
}

void Server::Take(RequestRecord& record, size_t choice, std::span<const int32_t> tokens) {
  AnswerChoice& answer = record.choices[choice];
  if (record.turn) answer.tokens.insert(answer.tokens.end(), tokens.begin(), tokens.end());
  const std::string delta = answer.writer->Append(tokens);
  if (!Deliver(record, choice, delta, /*last=*/false)) return;
  if (answer.writer->stopped() && !answer.cancelled) {
    answer.cancelled = true;
    engine_.Cancel(answer.engine_id);
  }
}

bool Server::Deliver(RequestRecord& record, size_t choice, std::string_view text, bool last) {
  AnswerChoice& answer = record.choices[choice];
  const std::string whole = std::exchange(answer.echo, "") + std::string(text);
  const size_t known =
      std::min(answer.logprobs.size(),
               answer.prompt_logprobs + static_cast<size_t>(answer.writer->tokens()));
  const size_t begin = answer.sent_logprobs;
  const bool silent_tokens = last && record.wants_logprobs && known > begin;
  if (whole.empty() && !silent_tokens) return true;
  answer.text += whole;
  answer.sent_logprobs = known;
  const auto seq = static_cast<int64_t>(record.deltas.size());
  record.deltas.push_back(
      {.choice = choice, .text_end = answer.text.size(), .logprobs_end = known});
  if (record.detached_until || record.replay) return true;
  const std::string client = record.name.client;
  const uint64_t key = record.key;
  switch (router_->Send(client, DeltaFrame(record.name.id, seq, whole,
                                           ExtrasOf(record, choice, begin, known, model_)))) {
    case Router::Delivery::kSent:
      return true;
    case Router::Delivery::kGone:
      Vanished(client);
      return requests_.FindOpen(key) != nullptr;
    case Router::Delivery::kOverBudget:
      CancelSlow(client);
      return false;
  }
  return false;
}

void Server::Finish(RequestRecord& record, size_t choice, const parallel::Finish& finish) {
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

void Server::Complete(RequestRecord& record) {
  DoneContents done;
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
    if (record.wants_logprobs) {
      choice.logprobs.resize(choice.sent_logprobs);  // without those behind a stop string
      contents.logprobs = LogprobsJson(model_, choice.logprobs);
    }
  }
  ++(cancelled ? counts_.cancelled_requests : counts_.answered_requests);
  if (record.turn) {
    done.conversation = record.turn->name.id;
    CommitTurn(record, first);
    if (log_ != nullptr) {
      // Nothing ends it any more but the news of its turn.
      record.deadline.reset();
      record.unlogged = std::move(done);
      return;
    }
  }
  SendDone(record, done);
}

void Server::SendDone(RequestRecord& record, const DoneContents& done) {
  const std::string client = record.name.client;
  const std::string id = record.name.id;
  const bool detached = record.detached_until.has_value();
  const bool replays = record.replay.has_value();
  std::string frame = DoneFrame(id, done);
  requests_.Finish(record, frame);
  // It comes behind the deltas, if the answer is not too large to be kept.
  if (detached || (replays && requests_.Find({client, id}) != nullptr)) return;
  if (replays) std::erase(replays_, RequestName{client, id});
  switch (router_->Send(client, std::move(frame), /*must=*/true)) {
    case Router::Delivery::kSent:
      break;
    case Router::Delivery::kGone:
      Vanished(client);
      break;
    case Router::Delivery::kOverBudget:
      router_->Send(client, ErrorFrame(id, ErrorCode::kCancelled, kTooSlow), /*must=*/true);
      break;
  }
}

void Server::CancelInEngine(RequestRecord& record) {
  if (record.preparing) return;
  for (AnswerChoice& choice : record.choices) {
    if (!std::exchange(choice.cancelled, true)) engine_.Cancel(choice.engine_id);
  }
}

void Server::DropRequest(RequestRecord& record) {
  const bool prepares = record.preparing && !preparer_->Drop(record.name.client, record.key);
  const auto found = early_.find(record.key);
  std::vector<Mailbox::Event> early;
  if (found != early_.end()) early = std::move(early_.extract(found).mapped());
  if (record.turn) AbandonTurn(record, prepares);
  if (record.replay) std::erase(replays_, record.name);
  requests_.Drop(record);
  for (const Mailbox::Event& event : early) TakeAbandoned(event);
}

void Server::Fail(RequestRecord& record, ErrorCode code, std::string_view message) {
  ++counts_.failed_requests;
  const std::string client = record.name.client;
  const bool detached = record.detached_until.has_value();
  std::string frame = ErrorFrame(record.name.id, code, message);
  DropRequest(record);
  if (detached) return;
  if (router_->Send(client, std::move(frame), /*must=*/true) == Router::Delivery::kGone) {
    Vanished(client);
  }
}

void Server::Vanished(const std::string& client) {
  std::erase_if(replays_, [&](const RequestName& name) {
    if (name.client != client) return false;
    if (RequestRecord* record = requests_.Find(name)) record->replay.reset();
    return true;
  });
  if (IsMadeUpName(client) || options_.resume_grace.count() == 0) {
    DropClient(client);
    return;
  }
  const Clock::time_point until = Clock::now() + options_.resume_grace;
  for (RequestRecord* record : requests_.OpenOf(client)) {
    if (record->detached_until) continue;
    record->detached_until = until;
    SetTimer(until);
  }
}

void Server::DropClient(const std::string& client) {
  for (RequestRecord* record : requests_.OpenOf(client)) {
    CancelInEngine(*record);
    ++counts_.cancelled_requests;
    DropRequest(*record);
  }
  if (IsMadeUpName(client)) requests_.DropAnswersOf(client);
}

void Server::CancelSlow(const std::string& client) {
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
