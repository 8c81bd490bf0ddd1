#pragma once

#include <atomic>
#include <chrono>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "core/base/status.h"
#include "frontend/chat/text_model.h"
#include "frontend/conversations/conversation_log.h"
#include "frontend/conversations/conversations.h"
#include "frontend/protocol/request.h"
#include "frontend/service/answer_events.h"
#include "frontend/service/engine_figures.h"
#include "frontend/service/mailbox.h"
#include "frontend/service/request_preparer.h"
#include "frontend/service/request_table.h"
#include "frontend/service/service_status.h"
#include "parallel/engine/engine.h"

namespace tandem::frontend {

struct ServiceOptions {
  int64_t open_requests = 1024;  // answers in progress, of all clients of all front ends
  int64_t open_requests_per_client = 64;
  int64_t kept_answers = 1024;  // finished, to answer a repeated id
  int64_t kept_answer_bytes = int64_t{32} << 20;
  ConversationLimits conversations;
  ContextPolicy context_policy;  // of chats that name none
  std::string attention;         // of the engine, as ChatHistory has it
  /// How long the requests of a client that is gone go on, for it to come back and resume them.
  std::chrono::milliseconds resume_grace{2000};
  /// Log-probabilities that one request may ask for in all, since they are sent with its end.
  int64_t logprobs = 200'000;
  RequestPreparerLimits preparer;
};

/// The name of a client of another front end than the ZeroMQ server, whose clients cannot take it:
/// the identities that they choose do not begin with a zero byte, and those that are made up for
/// them go on with a number.
std::string ClientName(std::string_view front_end, uint64_t number);

/// Answers requests with an engine, and keeps conversations, for front ends that speak protocols.
///
/// One thread owns all requests, and never waits for the engine or a tokenizer: other threads do,
/// and hand over through a mailbox, as the engine's sinks do. It is the thread of a front end,
/// which calls Begin, and then again and again TakeNews and Work until they have ended; End is
/// last. Limits hold for all front ends together. Whatever a client does, it affects that client
/// only.
///
/// Thread safety: each function says it. Those for all threads do their work at once where the
/// service's thread calls, and otherwise within its next step; callbacks and events come from the
/// service's thread. Between the end of the service and its destruction they do nothing.
class Service {
 public:
  using Clock = std::chrono::steady_clock;
  using StatusAnswer = std::function<void(const absl::StatusOr<ServiceStatus>& status)>;
  using CommandAnswer = std::function<void(const absl::Status& status)>;
  /// What is handed over is valid during the call.
  using PageAnswer = std::function<void(const Conversations::Page& page)>;
  using ConversationAnswer =
      std::function<void(const absl::StatusOr<const Conversation*>& conversation)>;

  /// The engine and the model must outlive the service, and so must the log where there is one:
  /// then every turn goes there before its answer counts as done.
  Service(ServiceOptions options, parallel::Engine& engine, const TextModel& model,
          ConversationLog* log = nullptr);
  ~Service();
  Service(const Service&) = delete;
  Service& operator=(const Service&) = delete;

  /// Before Begin: a conversation that outlived an earlier process.
  void Restore(const ConversationName& name, Conversation conversation);

  // From all threads, for the whole life of the service.

  const TextModel& model() const { return model_; }
  bool keeps_log() const { return log_ != nullptr; }
  /// The service ends within its next steps. Before, every open request fails as `unavailable`.
  /// Safe in a signal handler.
  void Stop();
  /// From now on requests for answers are refused as `unavailable`. The service ends once those in
  /// progress are answered; after `timeout` the rest fails as `unavailable`. A second call does
  /// nothing; Stop ends it sooner.
  void Drain(std::chrono::milliseconds timeout);
  bool draining() const { return draining_.load(); }

  // From all threads, once Begin was called.

  /// Whether requests are taken, and the engine is in health.
  bool ready() const { return serves() && !draining() && engine_.Health().ok(); }
  /// Whether requests are answered, if only with a reason why they are refused. While ranks are
  /// started again they wait.
  bool serves() const { return !ending_.load(); }

  /// A request for an answer: `request.body` is a GenerateRequest. `client`: a name that no client
  /// of another front end has (ClientName). An id that the client has used before is answered
  /// again, where it may be (AnswerEvents::repeats), to the events of the first time; it is refused
  /// for another request.
  void Start(std::string client, Request request, std::shared_ptr<AnswerEvents> events);
  /// The answer ends with what there is of it, which its own events hear. `events`, where there are
  /// some, hear of an id that is not known, and again of the end of an answer that has ended.
  void Cancel(std::string client, std::string id, std::shared_ptr<AnswerEvents> events = nullptr);
  /// The deltas of a request come again from one on, to the events that it was started with.
  /// `events` hear of an id that is not known.
  void Resume(std::string client, std::string id, const ResumeRequest& resume,
              std::shared_ptr<AnswerEvents> events);
  /// A client is gone: its requests end, or wait for it to come back (AnswerEvents::repeats).
  void Gone(std::string client);

  void ListConversations(ConversationListRequest request, PageAnswer answer);
  /// `from` is the caller's to heed. Errors: kNotFound; those of a log that cannot read it.
  void GetConversation(ConversationGetRequest request, ConversationAnswer answer);
  /// Answered once the log has it. Errors: those of Conversations; kUnavailable: it is done in
  /// memory, and not yet on disk.
  void DeleteConversation(ConversationDeleteRequest request, CommandAnswer answer);
  void ForkConversation(ConversationForkRequest request, CommandAnswer answer);
  /// Fails where the engine is dead.
  void Status(StatusAnswer answer);
  /// As Engine::Scale.
  void Scale(int ranks, parallel::Engine::ScaleDone answer);
  /// For the status: a front end has refused what a client sent.
  void CountRefused(ErrorCode code);
  /// For the status: a request had fields that nobody knows. Tells each name once in the log, for
  /// the first ones.
  void CountUnknown(const UnknownFields& fields);
  /// From now on the status has what this gives, which is called on the service's thread until the
  /// service has ended; or, where it is empty, nothing of the kind.
  void ShowHttp(std::function<HttpStatus()> http);

  // From the service's thread.

  void Begin();
  /// Readable when there is news.
  int wake_fd() const { return mailbox_->wake_fd(); }
  /// How long to wait for it at most.
  std::chrono::milliseconds UntilNextTimer() const;
  /// Looks for a turn at what the engine, the preparer, the log and other threads have brought.
  void TakeNews();
  /// Goes on with replays, looks at deadlines and at the engine's health, and ends what Stop and
  /// Drain end. `all_sent`: the front end holds nothing that its clients did not read.
  void Work(bool all_sent);
  bool ended() const;
  /// How it ended: OK by Stop or Drain, or what the engine died of.
  absl::Status End();

 private:
  /// A turn that was given up while the engine may still be saving KV of it.
  struct AbandonedTurn {
    std::string tenant;
    std::vector<int32_t> prompt;
    std::vector<std::vector<int32_t>> answers;  // [choices]
    /// Choices that the engine has not ended, and the preparation, where it may still submit them.
    size_t running = 0;
  };
  struct ReplayTurn {
    RequestName name;
    std::shared_ptr<AnswerEvents> events;
  };
  struct StatusQuestion {
    StatusAnswer answer;
    uint64_t number = 0;  // of the engine's answer that will do
    Clock::time_point until;
  };

  /// Calls it on the service's thread: at once where this is that thread.
  void Call(std::function<void()> function);

  void Take(Mailbox::Event event);
  /// Deadlines of requests, and of clients that may come back.
  void CheckTimers();
  void CheckEngine();
  /// What clients have cost goes back to the system: glibc keeps what is freed between what is not.
  void ReturnMemory();
  void NoteUse();
  void SetTimer(Clock::time_point at);
  bool Idle() const;
  /// Ends at once where nobody waits for anything, and soon otherwise, with the reason for requests
  /// that are open.
  void EndAsTold(std::string_view reason, bool all_sent);
  void EndSoon(absl::Status status);
  void FailAll(std::string_view message);

  void TakeStart(const RequestName& name, Request request,
                 const std::shared_ptr<AnswerEvents>& events);
  void TakeCancel(const RequestName& name, AnswerEvents* events);
  void TakeResume(const RequestName& name, const ResumeRequest& resume, AnswerEvents& events);
  /// kUnavailable while the service drains or ends, kResourceExhausted where too much is in
  /// progress.
  absl::Status CheckTakes(const std::string& client, int32_t samples) const;
  void AskStatus(StatusAnswer answer);
  /// The engine's status has come.
  void TakeFigures(Mailbox::EngineAnswer answer);
  /// Answers the first that asked; `answers`: the engine does.
  void AnswerStatus(bool answers);
  void TellUnknown(const UnknownFields& fields);

  /// The turn ends without an answer; what was computed for it is destroyed. `prepares`: it may
  /// still be submitted.
  void AbandonTurn(RequestRecord& record, bool prepares);
  /// News of a request that is gone: perhaps of a turn that was given up.
  void TakeAbandoned(const Mailbox::Event& event);
  /// It has lost one of those that it counts as running.
  void EndOneOf(std::map<uint64_t, AbandonedTurn>::iterator turn);
  void EraseKv(const AbandonedTurn& turn);
  /// Takes what is kept of a damaged conversation where its name tells which it is; then refuses
  /// what a newer program has written.
  absl::Status FindOnDisk(const ConversationName& name);
  /// Deletes it in memory; gives the blocks of its tokens that no other conversation shares.
  absl::StatusOr<std::vector<kv_store::BlockHash>> Delete(const ConversationName& name);
  /// Deletes stored responses but `kept`, the oldest first, until so much more has room.
  void MakeRoom(int64_t more_conversations, int64_t more_bytes, const ConversationName& kept);
  void TakeDelete(const ConversationDeleteRequest& request, CommandAnswer answer);
  void TakeFork(const ConversationForkRequest& request, CommandAnswer answer);

  /// Hands a request to the preparer.
  absl::Status Prepare(RequestRecord& record, GenerateRequest request);
  /// Begins the turn of a conversation.
  absl::Status BeginTurn(RequestRecord& record, Preparation& preparation);
  /// The engine has taken a request, or it was refused.
  void TakePrepared(RequestRecord& record, Prepared prepared);
  /// Sends the answer so far again, from a delta on, and goes on from there. Of a long one the rest
  /// follows as its client reads.
  void Replay(RequestRecord& record, int64_t from_seq);
  /// The next deltas of a replay. False: that was all, or it ends.
  bool SendPart(RequestRecord& record);
  /// Goes on with replays for a turn.
  void ContinueReplays();
  void EraseReplay(const RequestName& name);
  /// What a replay sent did not reach its client.
  void EndReplay(RequestRecord& record, Delivery why);

  void Take(RequestRecord& record, size_t choice, std::span<const int32_t> tokens);
  void TakeNotice(RequestRecord& record, const parallel::EngineNotice& notice);
  /// New text of an answer, with the log-probabilities of its tokens. `last`: also those of tokens
  /// that gave no text. False if the record is gone, because its client is.
  bool Deliver(RequestRecord& record, size_t choice, std::string_view text, bool last);
  void Finish(RequestRecord& record, size_t choice, const parallel::Finish& finish);
  /// All answers of a request are complete.
  void Complete(RequestRecord& record);
  void SendDone(RequestRecord& record);
  /// The log has told of a turn, or of a command.
  void TakeLogged(RequestRecord& record, const absl::Status& status);
  void TakeCommand(uint64_t key, const absl::Status& status);
  /// What the log calls when it has done a command that is then answered.
  ConversationLog::Done AnswerWhenLogged(CommandAnswer answer);
  /// Whether answers or commands wait for the log.
  bool WaitsForLog() const;
  /// The turn of a conversation ends with this answer.
  void CommitTurn(RequestRecord& record, const AnswerChoice& choice);
  void CancelInEngine(RequestRecord& record);  // once it is there
  /// Drops an open request; its conversation is what it was before.
  void DropRequest(RequestRecord& record);
  /// Ends a request whose client nobody waits for.
  void DropUnheard(RequestRecord& record);
  /// Ends a request with an error and frees its id.
  void Fail(RequestRecord& record, ErrorCode code, std::string_view message);
  void TakeGone(const std::string& client);
  void CancelSlow(const std::string& client);
  void Refuse(AnswerEvents& events, ErrorCode code, std::string_view message);
  void Refuse(AnswerEvents& events, const absl::Status& status);
  /// Counts a command that failed, and tells its caller.
  void Answer(const CommandAnswer& answer, const absl::Status& status);

  const ServiceOptions options_;
  parallel::Engine& engine_;
  const TextModel& model_;
  ConversationLog* const log_;  // null: conversations end with the process
  const std::shared_ptr<Mailbox> mailbox_ = std::make_shared<Mailbox>();
  std::atomic<bool> stop_{false};
  std::atomic<bool> draining_{false};
  std::atomic<bool> ending_{false};
  std::atomic<std::thread::id> thread_{};  // set by Begin

  /// Set by Begin: what waits for the engine in its place.
  std::optional<RequestPreparer> preparer_;
  std::optional<EngineFigures> figures_;

  RequestTable requests_;
  std::deque<Mailbox::Event> news_;  // of the mailbox, not looked at yet
  /// Events of requests that came before it was known that the engine has them; by key.
  std::map<uint64_t, std::vector<Mailbox::Event>> early_;
  std::deque<ReplayTurn> replays_;  // requests that have one, in turn
  bool replays_are_late_ = false;   // their turn was too short
  Conversations conversations_;
  std::map<uint64_t, AbandonedTurn> abandoned_;  // by the request's key; none without a log
  std::map<uint64_t, CommandAnswer> commands_;   // that wait for the log
  uint64_t next_command_ = 1;
  ServiceStatus counts_;               // its engine's part: the last one that came
  std::set<std::string> told_fields_;  // that nobody knows
  std::function<HttpStatus()> http_;   // empty: there is no gateway

  std::deque<StatusQuestion> status_questions_;  // in the order of arrival
  Clock::time_point engine_status_at_ = Clock::now();

  const Clock::time_point started_ = Clock::now();
  Clock::time_point next_engine_check_ = Clock::now();
  std::optional<Clock::time_point> used_since_;  // memory went back
  std::optional<Clock::time_point> next_timer_;  // of all open requests
  std::chrono::milliseconds drain_time_{0};
  std::optional<Clock::time_point> drains_until_;  // set: no requests are taken
  std::optional<Clock::time_point> ends_at_;  // set: answering what is still coming in, then end
  bool ended_ = false;                        // nothing was left to be answered
  absl::Status ends_with_;
};

}  // namespace tandem::frontend
